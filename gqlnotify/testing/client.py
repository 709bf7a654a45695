"""A client that speaks graphql-transport-ws to an application in the same process."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4
from weakref import WeakSet

from starlette.types import ASGIApp

from gqlnotify import clock
from gqlnotify.testing.application import Application, name_of, refuse
from gqlnotify.testing.bench import Bench
from gqlnotify.testing.clock import settle
from gqlnotify.testing.errors import Disconnected, NothingArrived, OperationFailed
from gqlnotify.testing.line import Line
from gqlnotify.testing.stream import Json, Result, Stream
from gqlnotify.testing.tokens import Tokens, claims_of
from gqlnotify.topics.revocation import REVOCATIONS, Revocation

PATIENCE_SECONDS = 5.0
_LAST_MESSAGES = 5
_NO_TOKEN = 4401


class Client:
    """One client of an application: one connection at a time, and its operations.

    `connect` makes it. It answers pings like a stock client, so it also acknowledges events.
    """

    def __init__(
        self,
        bench: Bench,
        application: Application,
        *,
        token: str | None,
        path: str,
        headers: Mapping[str, str],
        payload: Json,
        patience: float,
    ) -> None:
        self.token = token
        """The token of the next connection."""
        self.answers_pings = True
        """If false, the client acknowledges no event, and counts as dead after a while."""
        self._bench = bench
        self._application = application
        self._path = path
        self._headers = headers
        self._payload = payload
        self._patience = patience
        self._line: Line | None = None
        self._reading: asyncio.Task[None] | None = None
        self._streams: dict[str, Stream] = {}
        self._acknowledged = False
        self._pongs: list[Json] = []
        self._lines: list[Line] = []
        self._is_cut = False
        self._last: deque[Json] = deque(maxlen=_LAST_MESSAGES)
        self._waiting: list[asyncio.Future[None]] = []
        self._users: WeakSet[asyncio.Task[Any]] = WeakSet()

    async def open(self) -> None:
        """Connect, and wait until the server has accepted.

        Raises:
            Disconnected: the server has refused.
        """
        __tracebackhide__ = True
        application = self._application
        address = self._bench.address()
        line = Line(application, self._path, self._headers, address, application.state)
        self._line, self._is_cut, self._acknowledged = line, False, False
        self._lines.append(line)
        self._reading = asyncio.create_task(self._read(line), name="a client of the test")
        sent = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
        line.send({"type": "connection_init", "payload": {**sent, **self._payload}})
        await self.until(lambda: self._acknowledged, "The server did not answer connection_init")

    def subscribe(
        self,
        document: str,
        variables: Json | None = None,
        *,
        after: str | None = None,
        operation_name: str | None = None,
        extensions: Json | None = None,
    ) -> Stream:
        """Begin a subscription, and return its results.

        Args:
            document: the GraphQL document.
            variables: its variables.
            after: a cursor to resume after.
            operation_name: which operation of the document to run.
            extensions: more `extensions` of the request.
        """
        more = {**(extensions or {}), **({} if after is None else {"after": after})}
        # A random UUID, as stock clients use: the server resumes no other operations by their id.
        stream = Stream(self, str(uuid4()), _payload(document, variables, operation_name, more))
        self._streams[stream.id] = stream
        stream.start()
        return stream

    async def execute(
        self,
        document: str,
        variables: Json | None = None,
        *,
        operation_name: str | None = None,
        extensions: Json | None = None,
    ) -> Result:
        """Run a query or a mutation, and return its result.

        Raises:
            OperationFailed: the result has errors.
            Disconnected: the server has closed the connection.
        """
        __tracebackhide__ = True
        payload = _payload(document, variables, operation_name, extensions or {})
        stream = Stream(self, str(uuid4()), payload)
        self._streams[stream.id] = stream
        stream.start()
        try:
            return await stream.next()
        finally:
            del self._streams[stream.id]

    async def cut(self, *, noticed: bool = True) -> None:
        """Cut the line, without a close frame.

        Args:
            noticed: whether the server learns of it, as by a reset. If not, it believes in the
                connection until a pong is missing.
        """
        self._open_line().lose(noticed=noticed)
        self._is_cut = True
        await settle()

    async def reconnect(self, token: str | None = None, *, with_cursors: bool = False) -> None:
        """Connect again, and run the same subscriptions under the same ids.

        Args:
            token: a token to use from now on; by default the same as before.
            with_cursors: send the cursor of each stream's last result, as the helpers for clients
                do. Without it, the server has to know by itself what the client has.

        Raises:
            RuntimeError: the client is still connected.
            Disconnected: the server has refused.
        """
        if self._line is not None and self._line.end is None:
            raise RuntimeError("The client is still connected: call cut() first")
        self.token = token or self.token
        await self.open()
        for stream in list(self._streams.values()):
            if not stream.is_over:
                stream.start(with_cursor=with_cursors)
                await stream

    async def expire_token(self) -> Disconnected:
        """Let this client's token expire, and return how the server has closed the connection.

        The client changes to a token that lives for one second more, and the clock is moved.

        Raises:
            ValueError: the token is not one that the test can sign.
            OperationFailed: the server does not accept the token that expires soon.
        """
        __tracebackhide__ = True
        short = self._tokens().sign({**self._claims(), "exp": clock.now() + 1})
        self._pongs.clear()
        self.send({"type": "ping", "payload": {"Authorization": f"Bearer {short}"}})
        await self.until(lambda: bool(self._pongs), "The server did not answer a renewal")
        answer = self._pongs[-1]
        if not answer.get("renewed"):
            raise OperationFailed([answer])
        await self._bench.clock.advance(1)
        return await self.closed()

    async def revoke(self) -> Disconnected:
        """Revoke this client's token, and return how the server has closed the connection.

        Raises:
            ValueError: the claims of the token are not known.
        """
        claims = self._claims()
        id_ = claims.get("jti")
        revocation = (
            Revocation(subject=claims["sub"]) if id_ is None else Revocation(token_id=str(id_))
        )
        for manager in self._bench.managers:
            if manager.is_running:
                await manager.publish_internal(REVOCATIONS, revocation)
        return await self.closed()

    @contextmanager
    def slow_reader(self) -> Iterator[None]:
        """Read nothing within the block, so that the server has to hold what it sends."""
        line = self._open_line()
        line.read(False)
        try:
            yield
        finally:
            line.read(True)

    async def closed(self) -> Disconnected:
        """Wait until the server closes the connection, and return how."""
        __tracebackhide__ = True
        line = self._require_line()
        await self._wait(lambda: line.end is not None, self._patience)
        if line.end is None:
            raise NothingArrived("The server has not closed the connection" + self._seen())
        return line.end

    async def heard(self) -> None:
        """Wait until the server has handled everything that this client has sent it, pongs too."""
        mark = {"mark": str(uuid4())}
        self.send({"type": "ping", "payload": mark})
        await self.until(lambda: mark in self._pongs, "The server did not answer a ping")

    def send(self, message: Json) -> None:
        """Send any message, for tests of the protocol itself."""
        self._require_line().send(message)

    def count_readers(self) -> int:
        """Return how many subscribers the application's topics have."""
        return sum(sum(manager.readers.values()) for manager in self._bench.managers)

    async def until(
        self, is_true: Callable[[], bool], otherwise: str, *, patience: float | None = None
    ) -> None:
        """Wait for something that the server causes.

        Raises:
            Disconnected: the server has closed the connection instead.
            NothingArrived: it did not come in time.
        """
        __tracebackhide__ = True
        seconds = self._patience if patience is None else patience
        await self._wait(lambda: is_true() or self._ended() is not None, seconds)
        if is_true():
            return
        ended = self._ended()
        if ended is not None:
            raise ended
        hint = ". The line is cut: call reconnect()" if self._is_cut else ""
        raise NothingArrived(f"{otherwise} within {seconds:g} s{hint}{self._seen()}")

    @property
    def is_lost(self) -> bool:
        """Whether the server has closed the connection."""
        return self._line is not None and self._line.end is not None and not self._is_cut

    @property
    def error(self) -> BaseException | None:
        """An exception with which the application has ended a connection."""
        return next((line.error for line in self._lines if line.error is not None), None)

    async def close(self) -> list[str]:
        """Leave, and return what is left over: calls and tasks that have not ended."""
        for stream in self._streams.values():
            stream.is_over = True
        self.notify()
        left = []
        for line in self._lines:
            line.hang_up()
            if not await line.returned(self._patience):
                left.append(f"the WebSocket at {self._path}: the application has not returned")
        if self._reading is not None:
            await asyncio.wait([self._reading])
        await settle()
        running = {task for task in self._users if not task.done()} - {asyncio.current_task()}
        return left + [name_of(task) for task in running]

    def notify(self) -> None:
        """Let everything that waits look again."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def _wait(self, is_true: Callable[[], bool], seconds: float) -> None:
        """Wait for `is_true`, at most for `seconds` of real time, which a test does not move."""
        task = asyncio.current_task()
        if task is not None:
            self._users.add(task)
        end = time.monotonic() + seconds
        while not is_true() and (left := end - time.monotonic()) > 0:
            news = asyncio.get_running_loop().create_future()
            self._waiting.append(news)
            await asyncio.wait([news], timeout=left)

    async def _read(self, line: Line) -> None:
        while (message := await line.receive()) is not None:
            self._last.append(message)
            self._handle(line, message)
            self.notify()
        self.notify()

    def _handle(self, line: Line, message: Json) -> None:
        match message["type"]:
            case "connection_ack":
                self._acknowledged = True
            case "ping":
                payload = message.get("payload")
                for id_ in ((payload or {}).get("gqlnotify") or {}).get("cursors", {}):
                    if id_ in self._streams:
                        self._streams[id_].is_armed = True
                if self.answers_pings:
                    line.send({**message, "type": "pong"})
            case "pong":
                self._pongs.append(message.get("payload") or {})
            case _ if message.get("id") in self._streams:
                self._streams[message["id"]].got(message)

    def _ended(self) -> Disconnected | None:
        """Return how the server has ended the current line; None if it has not."""
        line, reading = self._line, self._reading
        # What came before the end is read first.
        if line is None or line.end is None or self._is_cut or not (reading and reading.done()):
            return None
        error = line.error
        if error is not None:
            raise error
        return _explained(line, self._path, has_token=self.token is not None)

    def _require_line(self) -> Line:
        assert self._line is not None, "The client is not connected: use `async with connect(...)`"
        return self._line

    def _open_line(self) -> Line:
        line = self._require_line()
        if line.end is not None:
            raise RuntimeError(f"The client is not connected ({line.end}): call reconnect() first")
        return line

    def _claims(self) -> dict[str, Any]:
        if self.token is None:
            raise ValueError("This client has no token: pass connect(app, token=tokens(...))")
        return claims_of(self.token)

    def _tokens(self) -> Tokens:
        """Return what signs tokens with the secret of this client's token."""
        for manager in self._bench.managers:
            tokens = Tokens(manager.settings)
            if self.token is not None and tokens.has_signed(self.token):
                return tokens
        raise ValueError(
            "The test has no secret to sign another token of this kind with: give a token a short "
            "lifetime instead, and call clock.advance()"
        )

    def _seen(self) -> str:
        if not self._last:
            return ". The server has sent nothing"
        lines = "\n".join(f"  {message}" for message in self._last)
        return f". The last messages of the server:\n{lines}"


@asynccontextmanager
async def connect(
    app: ASGIApp,
    *,
    token: str | None = None,
    path: str = "/graphql",
    headers: Mapping[str, str] | None = None,
    payload: Json | None = None,
    patience: float = PATIENCE_SECONDS,
) -> AsyncIterator[Client]:
    """Connect a client to `app`, in this process: no port, no Redis, the real router and protocol.

    The first client starts the application, lifespan included, and the last one stops it.

    Args:
        app: the ASGI application, a FastAPI for example.
        token: sent as `Authorization: Bearer ...` in `connection_init`.
        path: where the router is. It may be in a mounted application.
        headers: of the handshake.
        payload: more entries of the payload of `connection_init`.
        patience: how many seconds to wait for anything at most, in real time.

    Raises:
        Disconnected: the server has refused the connection.
        LeftOver: at the end, tasks of the application or of the test still ran.
    """
    __tracebackhide__ = True
    bench = Bench.of_this_test()
    bench.enter_loop()
    application = await bench.enter(app)
    client = Client(
        bench,
        application,
        token=token,
        path=path,
        headers=headers or {},
        payload=payload or {},
        patience=patience,
    )
    left: Sequence[str] = ()
    try:
        await client.open()
        yield client
    finally:
        left = [*await client.close(), *await bench.leave(app)]
    # Not in the `finally`: these would hide the test's own error.
    if client.error is not None:
        raise client.error
    refuse([*left])


def _payload(
    document: str, variables: Json | None, operation_name: str | None, extensions: Json
) -> dict[str, Any]:
    given = {
        "variables": dict(variables or {}),
        "operationName": operation_name,
        "extensions": dict(extensions) or None,
    }
    return {"query": document, **{name: each for name, each in given.items() if each is not None}}


def _explained(line: Line, path: str, *, has_token: bool) -> Disconnected:
    """Return how the line has ended, with what to do about it."""
    assert line.end is not None
    hint = ""
    if not line.is_accepted:
        hint = f"The handshake at {path!r} was refused. If the router is elsewhere, pass path="
    elif line.end.code == _NO_TOKEN and not has_token:
        hint = "Pass connect(app, token=tokens(...)), with the fixture `tokens`"
    return Disconnected(line.end.code, line.end.reason, hint)
