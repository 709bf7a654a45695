"""What the GraphQL-over-HTTP draft asks of an answer: its media type and its status code. Pure."""

from collections.abc import Iterator

JSON = "application/json"
GRAPHQL_RESPONSE = "application/graphql-response+json"


def negotiate(accept: str | None) -> str:
    """Return the media type of the answer to a request with this `Accept` header.

    `application/graphql-response+json` for whoever names it and does not like
    `application/json` better; `application/json` for everybody else, those without the header
    and those who take anything included.
    """
    qualities = dict(_media_ranges(accept or ""))
    modern = qualities.get(GRAPHQL_RESPONSE, 0.0)
    anything = qualities.get("application/*", qualities.get("*/*", 0.0))
    return GRAPHQL_RESPONSE if modern > 0 and modern >= qualities.get(JSON, anything) else JSON


def _media_ranges(accept: str) -> Iterator[tuple[str, float]]:
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        yield name, next((_quality(p[2:]) for p in parameters if p.startswith("q=")), 1.0)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
