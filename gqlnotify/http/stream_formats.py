"""The formats of a stream over HTTP: Server-Sent Events, and multipart."""

import random
from collections.abc import Callable, Mapping
from typing import ClassVar

from strawberry.http import GraphQLHTTPResponse
from strawberry.http.streaming import (
    HTTPStreamTransport,
    MultipartSubscriptionTransport,
    SSETransport,
)
from typing_extensions import override

from gqlnotify.errors import BadUserInput
from gqlnotify.event import Cursor
from gqlnotify.execution import Position
from gqlnotify.http.encoded_part import EncodedPart

_UNBUFFERED = {
    "Cache-Control": "no-cache, no-transform",
    # Otherwise nginx sends nothing until it has filled a buffer.
    "X-Accel-Buffering": "no",
}

# Milliseconds after which an EventSource reconnects. Browsers wait 3 to 5 seconds by default. Each
# stream gets a random time, so that the clients of a server that stopped do not all come at once.
_RETRY = (1000, 3000)


class ServerSentEvents(SSETransport):
    """Gives each event its cursor as its id, so that an `EventSource` resumes after it.

    Lines end with LF, because some clients split events only at an empty line with LF.
    """

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "text/event-stream", **_UNBUFFERED}

    @override
    def encode_next(
        self,
        response: GraphQLHTTPResponse | EncodedPart | Position,
        encode_json: Callable[[object], str],
    ) -> str:
        if isinstance(response, Position):
            # An event without data is not dispatched, but its id counts: "Set the last event ID
            # string of the event source to the value of the last event ID buffer" comes first
            # (HTML, section 9.2.6).
            return f"retry: {random.randint(*_RETRY)}\nid: {response.cursor}\n\n"  # noqa: S311
        cursor = cursor_of(response)
        event = super().encode_next(response, encode_json)  # type: ignore[arg-type]
        return event if cursor is None else f"id: {cursor}\n{event}"

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


def cursor_of(response: GraphQLHTTPResponse | EncodedPart) -> Cursor | None:
    """Return the cursor of a response; None if it has none."""
    if isinstance(response, EncodedPart):
        return response.cursor
    cursor = (response.get("extensions") or {}).get("cursor")
    try:
        return Cursor.parse(cursor) if isinstance(cursor, str) else None
    except BadUserInput:
        # An extension of the application's schema has put something else there.
        return None


WRAPPERS: Mapping[type[HTTPStreamTransport], Callable[[object], object]] = {
    ServerSentEvents: lambda response: response,
    MultipartSubscription: lambda response: {"payload": response},
}
"""For each format, a function that returns the object to send for a response."""
