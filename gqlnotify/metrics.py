"""What the server counts, for Prometheus."""

from prometheus_client import Counter

_refusals = Counter("gqlnotify_refusals", "What was refused, by reason.", ["reason"])


def refused(reason: str) -> None:
    """Count a refusal: an error's `code`, or the `label` of what closes a connection."""
    _refusals.labels(reason.lower()).inc()
