"""How the parts of a stream over HTTP are written: Server-Sent Events, and multipart."""

from collections.abc import Mapping
from typing import ClassVar

from strawberry.http.streaming import MultipartSubscriptionTransport, SSETransport
from typing_extensions import override

_NOT_KEPT = {
    "Cache-Control": "no-cache, no-transform",
    # nginx would hold back what it can't fill a buffer with.
    "X-Accel-Buffering": "no",
}


class ServerSentEvents(SSETransport):
    """Ends lines in LF alone, as clients split events at an empty line of that kind."""

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "text/event-stream", **_NOT_KEPT}

    @override
    def encode_event(self, event: str, data: str | None = None) -> str:
        return super().encode_event(event, data).replace("\r\n", "\n")

    @override
    def encode_comment(self, comment: str) -> str:
        return super().encode_comment(comment).replace("\r\n", "\n")


class MultipartSubscription(MultipartSubscriptionTransport):
    """Apollo's multipart subscriptions, as Apollo's router writes them."""

    @property
    @override
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer."""
        of_parts = f'multipart/mixed;boundary="{self.separator}";subscriptionSpec=1.0'
        return {"Content-Type": of_parts, **_NOT_KEPT}

    @override
    def encode_complete(self) -> str:
        """Return what makes the last delimiter the end (RFC 2046, section 5.1.1)."""
        return "--\r\n"
