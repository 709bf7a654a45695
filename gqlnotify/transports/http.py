"""What the GraphQL-over-HTTP draft asks of an answer: its media type and its status code. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

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


def is_request_error(result: Mapping[str, Any]) -> bool:
    """Tell whether a result's errors come from the request itself, before any execution.

    The error of a field has a path; one of the document, its variables or the request has none.
    """
    errors = result.get("errors") or []
    return bool(errors) and result.get("data") is None and not any("path" in e for e in errors)


def _media_ranges(accept: str) -> Iterator[tuple[str, float]]:
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        yield name, next((_quality(p[2:]) for p in parameters if p.startswith("q=")), 1.0)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
