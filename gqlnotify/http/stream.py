"""A stream of results over HTTP, which counts as a connection while it lasts."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from secrets import token_hex

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from gqlnotify.connections.asgi_adapter import asgi_transport
from gqlnotify.connections.limits import ConnectionLimits
from gqlnotify.connections.peer import ReadWatch, Transport, let_go, watches_reading
from gqlnotify.connections.report import Described, Facts
from gqlnotify.errors import (
    NotifyError,
    TooManyConnections,
    TooManyConnectionsOfSubject,
    TooManyStreams,
    TooManyStreamsOfSubject,
)
from gqlnotify.observability import logs, metrics, trace
from gqlnotify.topics.manager import TopicManager

_REFUSALS: dict[type[Exception], type[NotifyError]] = {
    TooManyConnections: TooManyStreams,
    TooManyConnectionsOfSubject: TooManyStreamsOfSubject,
}
_RETRY_AFTER = 5


class Stream(StreamingResponse, Described):
    """Sends `content`, or the response of `refuse` if there are too many connections.

    It checks the limits when the server begins to send. If it checked earlier, a response that is
    never sent would be counted forever.

    Args:
        content: what to send. If the stream is refused, none of it is executed.
        topics: the topics of the router.
        connection_limits: counts the stream while it lasts.
        subject: the subject of the token, or None if no token is required.
        refuse: makes the response that refuses the stream.
        send_timeout: seconds after which a peer that reads none of its pending data is dropped.
    """

    def __init__(
        self,
        content: AsyncGenerator[str, None],
        *,
        status_code: int,
        headers: Mapping[str, str],
        topics: TopicManager | None,
        connection_limits: ConnectionLimits,
        subject: str | None,
        refuse: Callable[[NotifyError], Response],
        send_timeout: float,
    ) -> None:
        super().__init__(self._until_the_peer_has_gone(content), status_code, headers)
        self._peer_has_gone = False
        self._id = token_hex(4)
        self._since = time.time()
        self._address = ""
        self._transport: Transport | None = None
        self._topics = topics
        self._connection_limits = connection_limits
        self._subject = subject
        self._refuse = refuse
        self._send_timeout = send_timeout

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the content. Returns when it has ended or the peer has gone."""
        try:
            leave = self._connection_limits.enter_stream(self._subject)
        except (TooManyConnections, TooManyConnectionsOfSubject) as full:
            refusal = _REFUSALS[type(full)](full.reason, retryAfter=_RETRY_AFTER)
            await self._refuse(refusal)(scope, receive, send)
            return
        if scope.get("client"):
            self._address = ":".join(map(str, scope["client"]))
        self._transport = asgi_transport(receive)
        metrics.watch(self)
        logs.connection_id.set(self._id)
        try:
            with self._watching():
                await super().__call__(scope, partial(self._receive, receive), send)
        finally:
            metrics.unwatch(self)
            trace.note(trace.Kind.CLOSED, subject=self._subject, text="the end of a stream")
            leave()

    async def _receive(self, receive: Receive) -> Message:
        message = await receive()
        self._peer_has_gone = message["type"] == "http.disconnect"
        return message

    async def _until_the_peer_has_gone(
        self, content: AsyncGenerator[str, None]
    ) -> AsyncGenerator[str, None]:
        # Starlette cancels the sending, but anyio's cancellation reaches a task only while it
        # waits, which it never does if content is always ready.
        async with aclosing(content):
            async for part in content:
                if self._peer_has_gone:
                    return
                yield part

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Drop a peer that does not read, unless the server itself does."""
        transport = self._transport
        if transport is None or watches_reading(transport):
            yield
            return
        watch = ReadWatch(asyncio.get_running_loop(), transport, self._send_timeout)
        try:
            yield
        finally:
            # The server may keep the connection open, or close it only when everything is read.
            watch.finish()

    @override
    def load(self) -> metrics.Load:
        yield metrics.streams, 1

    @property
    @override
    def topics(self) -> TopicManager | None:
        return self._topics

    @property
    @override
    def id(self) -> str:
        return self._id

    @property
    @override
    def since(self) -> float:
        return self._since

    @property
    @override
    def names(self) -> str:
        return f"{self._id} {self._subject or ''} {self._address}"

    @override
    def describe(self) -> Facts:
        return {
            "id": self._id,
            "subject": self._subject,
            "tokenId": None,
            "address": self._address,
            "transport": (self.media_type or self.headers.get("content-type", "")).partition(";")[
                0
            ],
            "since": self._since,
            "heldBytes": 0,
            "operations": [],
        }

    @override
    def disconnect(self) -> None:
        self._peer_has_gone = True
        if self._transport is not None:
            let_go(self._transport)
