"""Media types and status codes of responses, by the GraphQL-over-HTTP draft. Pure."""

from collections.abc import Callable, Iterator

JSON = "application/json"
GRAPHQL_RESPONSE = "application/graphql-response+json"
FORM = "multipart/form-data"


def negotiate(accept: str | None) -> str:
    """Return the media type of the response to a request with this `Accept` header.

    A client gets `application/graphql-response+json` if it names it and does not prefer
    `application/json`. All others get `application/json`, also without the header or with `*/*`.
    """
    qualities = _qualities(accept)
    modern = qualities.get(GRAPHQL_RESPONSE, 0.0)
    anything = qualities.get("application/*", qualities.get("*/*", 0.0))
    return GRAPHQL_RESPONSE if modern > 0 and modern >= qualities.get(JSON, anything) else JSON


def single_quality(accept: str | None) -> float:
    """Return the quality, from 0 to 1, that a client gives to a single response in JSON."""
    qualities = _qualities(accept)
    anything = qualities.get("application/*", qualities.get("*/*", 0.0))
    return max(qualities.get(name, anything) for name in (JSON, GRAPHQL_RESPONSE))


def stream_quality(accept: str | None, accepts: Callable[[str], bool]) -> float:
    """Return the quality, from 0 to 1, that a client gives to the stream of these media ranges.

    `accepts` returns whether a media range names the stream. `*/*` does not count, because clients
    without support for streams send it too.
    """
    ranges = _media_ranges(accept or "")
    return max((quality for range_, quality in ranges if accepts(range_)), default=0.0)


def media_type(content_type: str | None) -> str:
    """Return the media type of a request's body in lower case, without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def _qualities(accept: str | None) -> dict[str, float]:
    ranges = _media_ranges(accept or "")
    return {range_.partition(";")[0]: quality for range_, quality in ranges}


def _media_ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yield each media range with its parameters in lower case, and its quality."""
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        quality = next((_quality(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        yield ";".join([name, *(p for p in parameters if not p.startswith("q="))]), quality


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
