"""The formats of a stream over HTTP: Server-Sent Events, and multipart."""

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

_UNBUFFERED = {
    "Cache-Control": "no-cache, no-transform",
    # Otherwise nginx sends nothing until it has filled a buffer.
    "X-Accel-Buffering": "no",
}


class ServerSentEvents(SSETransport):
    """Ends lines with LF, because some clients split events only at an empty line with LF."""

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "text/event-stream", **_UNBUFFERED}

    @override
    def encode_event(self, event: str, data: str | None = None) -> str:
        return super().encode_event(event, data).replace("\r\n", "\n")

    @override
    def encode_comment(self, comment: str) -> str:
        return super().encode_comment(comment).replace("\r\n", "\n")


class MultipartSubscription(MultipartSubscriptionTransport):
    """Apollo's multipart subscriptions, in the format of Apollo's router."""

    @property
    @override
    def headers(self) -> Mapping[str, str]:
        """The headers of the response."""
        of_parts = f'multipart/mixed;boundary="{self.separator}";subscriptionSpec=1.0'
        return {"Content-Type": of_parts, **_UNBUFFERED}

    @override
    def encode_next(
        self, response: GraphQLHTTPResponse | EncodedPart, encode_json: Callable[[object], str]
    ) -> str:
        if isinstance(response, EncodedPart):
            return self.encode_multipart_data(response, encode_json)
        return super().encode_next(response, encode_json)

    @override
    def encode_complete(self) -> str:
        """Return what turns the last delimiter into the closing one (RFC 2046, section 5.1.1)."""
        return "--\r\n"


WRAPPERS: Mapping[type[HTTPStreamTransport], Callable[[object], object]] = {
    ServerSentEvents: lambda response: response,
    MultipartSubscription: lambda response: {"payload": response},
}
"""For each format, a function that returns the object to send for a response."""
