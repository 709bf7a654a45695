"""How the parts of a stream over HTTP are written: Server-Sent Events, and multipart."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from strawberry.http import GraphQLHTTPResponse
from strawberry.http.streaming import (
    HTTPStreamTransport,
    MultipartSubscriptionTransport,
    SSETransport,
)
from typing_extensions import override

from gqlnotify.http.encoded_part import EncodedPart

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
    def encode_next(
        self, response: GraphQLHTTPResponse | EncodedPart, encode_json: Callable[[object], str]
    ) -> str:
        if isinstance(response, EncodedPart):
            return self.encode_multipart_data(response, encode_json)
        return super().encode_next(response, encode_json)

    @override
    def encode_complete(self) -> str:
        """Return what makes the last delimiter the end (RFC 2046, section 5.1.1)."""
        return "--\r\n"


WRAPPERS: Mapping[type[HTTPStreamTransport], Callable[[object], object]] = {
    ServerSentEvents: lambda response: response,
    MultipartSubscription: lambda response: {"payload": response},
}
"""Return the object that a format sends for a response."""
