"""One plain WebSocket: it gets the events of one topic, and may publish to it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket
from typing_extensions import override

from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.connections.access import Access
from gqlnotify.connections.report import Facts
from gqlnotify.deadline import time_limit
from gqlnotify.drain import Drain
from gqlnotify.errors import (
    ConnectionClosed,
    Draining,
    Forbidden,
    MessageTooBig,
    Unauthenticated,
    close_reason,
)
from gqlnotify.event import Event, Topic, is_reserved
from gqlnotify.observability import metrics
from gqlnotify.plain import messages, refusals
from gqlnotify.plain.handshake import BINARY, Handshake
from gqlnotify.plain.publishing import Publish, Publishing
from gqlnotify.topics.local_member import join_as
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.subscription import Subscription
from gqlnotify.websocket.heartbeat import Heartbeat
from gqlnotify.websocket.lifecycle import Lifecycle
from gqlnotify.websocket.primitives import LightEvent

_HOW_TO_SEND = (
    'Send a token: Authorization, subprotocol bearer.<token>, or first message {"token": ...}'
)
_NO_TOKENS = "This server checks no tokens. Set GQLNOTIFY_JWT_SECRET on the server"


@dataclass(frozen=True, slots=True)
class Service:
    """What the sockets of one router share."""

    topics: TopicManager
    access: Access
    publish: Publish
    presence: Sequence[Topic[Any]] = ()

    def has_presence(self, name: str) -> bool:
        """Return whether the clients of this topic are present at it."""
        return any(topic.member(name) is not None for topic in self.presence)


class TopicSocket(Lifecycle):
    """Serves one accepted socket.

    Args:
        service: what the sockets share.
        websocket: the socket.
        topic: the name of the topic that the client asks for.
        handshake: what else the client asks for.
        requires_token: whether to refuse the client if the server checks no tokens.
    """

    transport = "plain WebSocket"
    internal_error = refusals.INTERNAL_ERROR

    def __init__(
        self,
        service: Service,
        websocket: WebSocket,
        *,
        topic: str,
        handshake: Handshake,
        requires_token: bool,
    ) -> None:
        super().__init__(service.access, websocket)
        self._service = service
        self._topic = topic
        self._handshake = handshake
        self._requires_token = requires_token
        binary = handshake.subprotocol == BINARY
        self._encode: Callable[[Event], str | bytes]
        self._encode = messages.frame_of if binary else messages.text_of
        self._deliveries = metrics.DeliveryCounter.of(asyncio.get_running_loop())
        self._closing = False
        # Whether the messages of the client count no more.
        self._leaving = False
        # Open while the next message of the client is expected: its token, or something to publish.
        self._expects = LightEvent()
        self._first: asyncio.Future[str | bytes] | None = None
        self._publishing = Publishing(
            service.publish, topic, only_json=handshake.subprotocol is not None
        )
        self._work: asyncio.Task[None] | None = None
        self._heartbeat = self._make_heartbeat()

    def _make_heartbeat(self) -> Heartbeat | None:
        settings = self._access.settings
        ping = self._connection.on_frame(self._heard)
        if ping is None:
            # ASGI shows no pongs. The server's own pings find a dead peer.
            return None
        return Heartbeat(
            interval=settings.ping_interval,
            timeout=settings.ping_timeout,
            ping=ping,
            reads=self._connection.reads,
            dead=self._peer_is_dead,
        )

    @override
    def _begin(self) -> None:
        self._work = self._connection.spawn(self._serve())

    async def _serve(self) -> None:
        """Admit the client, then deliver the topic's events until the socket ends."""
        try:
            with only_own_cancellation():
                self._check_request()
                await self._admit()
                self._expects.set()
                async with aclosing(await self._subscribe()) as subscription:
                    await self._deliver(subscription)
        except ConnectionClosed as closed:
            await self._fail(closed)
        except Exception as error:
            await self._fail(refusals.closed_by(refusals.told(error)))

    def _check_request(self) -> None:
        settings = self._access.settings
        self._handshake.check(query_token=settings.query_token)
        if self._requires_token and self._access.authenticate is None:
            raise refusals.refusal(Unauthenticated.code, _NO_TOKENS)

    async def _admit(self) -> None:
        token = self._handshake.token
        try:
            await self._session.begin({"token": token})
        except Unauthenticated:
            if token is not None:
                raise
            await self._session.begin({"token": await self._first_token()})

    async def _first_token(self) -> Any:
        self._first = asyncio.get_running_loop().create_future()
        self._expects.set()
        try:
            async with time_limit(self._access.settings.connection_init_wait):
                token = messages.token_in(await self._first)
        except TimeoutError:
            token = None
        if token is None:
            raise refusals.refusal(Unauthenticated.code, _HOW_TO_SEND)
        return token

    async def _subscribe(self) -> Subscription[Any]:
        if is_reserved(self._topic):
            # Where the server requires no tokens, there is no viewer whose right could be checked.
            raise Forbidden(f"No one may subscribe to {self._topic!r}")
        # Of any type, because the payloads are passed on as they are.
        topic: Topic[Any] = Topic(
            self._topic, object, presence=self._service.has_presence(self._topic)
        )
        join_as(self._session.present_as())
        subscription = self._service.topics.subscribe(topic, after=self._handshake.after)
        await subscription.start()
        return subscription

    async def _deliver(self, subscription: Subscription[Any]) -> None:
        subscriber = subscription.subscriber
        await self._connection.send_encoded(messages.ready(subscriber.position))
        while (event := await subscriber.next()) is not None:
            await self._send_event(event)
        raise Draining("The server has closed its topics. Reconnect with after")

    async def _send_event(self, event: Event) -> None:
        message = self._encode(event)
        if not self._connection.writer.closed:
            self._connection.writer.write(message)
            published_at = [] if event.published_at is None else [event.published_at]
            self._deliveries.add(1, 1, len(message), published_at)
        await self._connection.drained()
        # A replay never waits while the peer reads fast, and would block the event loop.
        await asyncio.sleep(0)

    @override
    async def _received(self, message: str | bytes) -> None:
        if self._is_too_big(message):
            await self._fail(MessageTooBig("This message is too large"))
            return
        await self._expects.wait()
        if self._first is not None:
            first, self._first = self._first, None
            self._expects.clear()
            if not first.done():
                first.set_result(message)
        elif not self._leaving:
            self._publishing.idle.clear()
            try:
                answer = await self._publishing.answer(message, self._session.viewer)
                await self._connection.send_encoded(answer)
            finally:
                self._publishing.idle.set()

    def _is_too_big(self, message: str | bytes) -> bool:
        data = message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")
        return len(data) > self._access.settings.message_max_bytes

    @override
    def _describe_operations(self) -> list[Facts]:
        return [{"id": "", "document": None, "topic": self._topic, "acknowledged": None}]

    @override
    def _heard(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.heard()

    @override
    def _close_soon(self, closed: ConnectionClosed) -> None:
        self._leaving = True
        self._connection.spawn(self._fail(closed))

    @override
    async def _fail(self, closed: ConnectionClosed) -> None:
        if self._closing:
            return
        self._closing = self._leaving = True
        metrics.refused(closed.label)
        await self._connection.close(closed.close_code, close_reason(closed.reason))

    @override
    def _token_ended(self, closed: ConnectionClosed) -> None:
        # Stop now: with a slow peer, the close frame may take long.
        if self._work is not None and not self._closing:
            self._work.cancel()
        self._close_soon(refusals.token_ended(closed))

    @override
    def _stop(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()

    @override
    def _cut_cycles(self) -> None:
        super()._cut_cycles()
        # A cancelled task keeps the traceback of its cancellation.
        self._work = None
        if self._heartbeat is not None:
            self._heartbeat.forget_callbacks()

    @override
    def _may_detach(self) -> bool:
        return True

    @override
    def _drain(self) -> None:
        self._leaving = True
        self._connection.spawn(self._leave())

    async def _leave(self) -> None:
        """Answer the message that is being published, then send the client to another server."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(Drain.of(asyncio.get_running_loop()).finish_by):
                await self._publishing.idle.wait()
        await self._fail(Draining("The server is about to stop. Reconnect with after"))
