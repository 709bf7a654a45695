"""Simulated clients. Each follows one operation over all of its connections, until it stops."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any
from uuid import uuid4

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.e2e.tokens import token
from tests.simulation.application import CURSOR, DOCUMENTS, UNREADABLE
from tests.simulation.conditions import Conditions
from tests.simulation.determinism import CLOCK, EPOCH
from tests.simulation.history import Began, Entry, Got, Told
from tests.simulation.network import End, Link
from tests.simulation.process import Process
from tests.simulation.world import SimulatedLoop, World

_TOKEN_SECONDS = (3600, 3600, 5)
# About as long as a few turns of an event loop take.
_OVERLAP = (0, 1e-3)
# A process can be paused for this long before it looks at the clock.
_LATE_SECONDS = 6.0
_PATIENCE_SECONDS = 15.0
GOING_AWAY = 1012
_URI = parse_uri("ws://simulated/graphql")


class Closed(Exception):
    """The connection has ended."""


class Socket:
    """A WebSocket to a process: the client's half of it, an `asyncio.Protocol`."""

    def __init__(self) -> None:
        self.transport: End
        self._protocol = ClientProtocol(
            _URI, subprotocols=[Subprotocol("graphql-transport-ws")], max_size=None
        )
        self._inbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._is_open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: End) -> None:
        self.transport = transport

    async def open(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        await self._is_open

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._answered(event)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._inbox.put_nowait(json.loads(bytes(event.data)))
        self._flush()

    def _answered(self, response: Response) -> None:
        if not self._is_open.done() and response.status_code == 101:
            self._is_open.set_result(None)

    def send(self, message: dict[str, Any]) -> None:
        with suppress(Exception):
            self._protocol.send_text(json.dumps(message).encode())
            self._flush()

    async def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            Closed: The connection has ended.
        """
        message = await self._inbox.get()
        if message is None:
            raise Closed
        return message

    @property
    def close_code(self) -> int | None:
        close = self._protocol.close_rcvd
        return None if close is None else close.code

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.close()

    def eof_received(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self._inbox.put_nowait(None)
        if not self._is_open.done():
            self._is_open.set_exception(Closed())


class Client:
    """A client of one operation.

    Args:
        world, loop: Where it runs.
        name: Its name and its subject.
        room: What it follows.
        kind: The field that it subscribes to.
        resumes: Whether it sends cursors. If not, it is a stock client: it keeps the id of its
            operation and echoes pings.
        processes: Returns the processes that it may connect to.
        conditions: Say how far away it is.
    """

    def __init__(
        self,
        world: World,
        loop: SimulatedLoop,
        name: str,
        *,
        room: str,
        kind: str,
        resumes: bool,
        processes: Callable[[], list[Process]],
        conditions: Conditions,
    ) -> None:
        self.name, self.room, self.kind, self.resumes = name, room, kind, resumes
        self.log: list[Entry] = []
        self.link: Link | None = None
        self.socket: Socket | None = None
        self.stopped = False
        self.was_told = False
        """Whether a process has told it of a gap."""
        self.awaits_snapshot = False
        """Whether it has begun a live list and knows nothing of it yet."""
        self.failures: list[str] = []
        self._world, self._loop, self._processes = world, loop, processes
        self._conditions = conditions
        self._id = str(uuid4())
        self._cursor: str | None = None
        self._armed = False
        self.token_id = ""
        self._expires_at = inf
        self.token_ends = inf
        """When the token of the connection ends, which is a whole second."""
        self._reads_from = -inf
        self.process: Process | None = None
        """The one that it has connected to last."""
        self._knower: Process | None = None
        self.task = loop.start(self._run())
        # A bug of this client must not look like a client that waits.
        self.task.add_done_callback(lambda task: task.result())

    def stop(self) -> None:
        """End the operation and the connection."""
        self.stopped = True
        if self.socket is not None:
            self.socket.send({"id": self._id, "type": "complete"})
            self.socket.transport.close()

    def begin_again(self) -> None:
        """Complete the operation, and begin another one.

        A client that sends cursors does so on a new connection. A stock client begins the new one
        just before it completes the old one.
        """
        if self.socket is None or not self._armed:
            return
        self._note("begins again")
        socket, complete = self.socket, {"id": self._id, "type": "complete"}
        self._id, self._cursor, self._armed = str(uuid4()), None, False
        self.log.append(Told(CLOCK.now, ends=True))
        if self.resumes:
            socket.send(complete)
            socket.transport.close()
        else:
            self._request()
            self._loop.later(self._world.random.uniform(*_OVERLAP), socket.send, complete)

    def cut(self) -> None:
        """Reset the connection."""
        if self.link is not None:
            self.link.cut()

    def abandon(self) -> None:
        """Lose the connection as on a change of networks, which the process notices late."""
        if self.link is not None:
            self.link.abandon()

    def silence(self) -> None:
        """Leave the connection half-open."""
        if self.link is not None:
            self.link.silent = True

    def stall(self, seconds: float) -> None:
        """Read nothing for some time."""
        if self.socket is not None:
            transport = self.socket.transport
            transport.pause_reading()
            self._reads_from = CLOCK.now + seconds
            self._loop.later(seconds, transport.resume_reading)

    async def _run(self) -> None:
        while not self.stopped:
            with suppress(Closed, TimeoutError):
                await self._connect()
            if self.socket is not None:
                self._note(f"is closed with {self.socket.close_code}")
                self._look_at_the_end(self.socket)
                self.socket.transport.close()
            self.socket = None
            await asyncio.sleep(self._world.random.uniform(*self._conditions.away))

    def _look_at_the_end(self, socket: Socket) -> None:
        if socket.close_code == GOING_AWAY:
            self._world.saw("a socket was closed with 1012")
        if self.log and isinstance(self.log[-1], Got) and self.log[-1].redelivered:
            self._world.saw("a connection was lost during a replay")

    async def _connect(self) -> None:
        ready = [process for process in self._processes() if process.serving]
        if not ready:
            return
        self._notice_lost_position()
        self.process = self._world.random.choice(ready)
        self.link = Link(self._world, self._conditions.client_latency, self.name)
        self.socket = socket = Socket()
        self.link.connect(self._loop, socket)
        if not self.process.accept(self.link):
            raise Closed
        self._note(f"connects to {self.process.name}")
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await socket.open()
            self._send("connection_init", {"token": self._fresh_token()})
            while (await socket.receive())["type"] != "connection_ack":
                pass
            await self._subscribe()
        while True:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._handle(await socket.receive())

    def _notice_lost_position(self) -> None:
        """Note if neither Redis nor a process knows the position any more."""
        process = self._knower
        if self._armed and not self.resumes and process is not None and process.has_lost_positions:
            self._note("has no position any more")
            self.log.append(Told(CLOCK.now, ends=True))
            self._armed = False

    def _hear_of_operation(self) -> None:
        """Note that from now on the process of this connection knows the position."""
        if self.process is not self._knower:
            # It may have begun long after the client has connected: processes pause.
            self._notice_lost_position()
            self._knower = self.process

    def _fresh_token(self) -> str:
        life = self._world.random.choice(_TOKEN_SECONDS)
        self.token_id, self._expires_at = uuid4().hex, CLOCK.now + life
        issued = int(CLOCK.wall())
        self.token_ends = issued + life - EPOCH
        return token(self.name, expires_in=life, jti=self.token_id, iat=issued)

    async def _fetch(self) -> None:
        """Read the state again: here, only the cursor that belongs to it."""
        self._send("subscribe", {"query": CURSOR, "variables": {"name": self.room}}, id="state")
        assert self.socket is not None
        while self._cursor is None:
            match await self.socket.receive():
                case {"id": "state", "type": "next", "payload": {"data": {"cursor": str(cursor)}}}:
                    self._cursor = cursor
                    self._began(cursor)
                case {"id": "state", "type": "error" | "complete" | "next"}:
                    raise Closed
                case {"type": "ping"} as message:
                    self._pong(message)

    async def _subscribe(self) -> None:
        if self._armed:
            self._world.saw("a client resumed")
        if self.resumes and self._cursor is None:
            await self._fetch()
        self._request()

    def _request(self) -> None:
        payload: dict[str, Any] = {
            "query": DOCUMENTS[self.kind],
            "variables": {"name": self.room},
        }
        if self.resumes:
            payload["extensions"] = {"after": self._cursor}
        self._send("subscribe", payload, id=self._id)

    async def _handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "next", "id": id_, "payload": payload}:
                # What was sent for an operation that it has completed is of no use any more.
                if id_ == self._id:
                    self._next(payload)
            case {"type": "ping"}:
                self._pong(message)
            case {"id": id_, "type": "error", "payload": [{"extensions": {"code": code}}, *_]} if (
                id_ == self._id and code == "CURSOR_EXPIRED"
            ):
                # The operation is over. The application begins another one.
                self._told(ends=True)
                self._id = str(uuid4())
                await self._subscribe()
            case {"id": id_, "type": "error" | "complete"} if id_ == self._id:
                self.failures.append(f"{self.name} got {message}")
                raise Closed

    def _next(self, payload: dict[str, Any]) -> None:
        self._hear_of_operation()
        extensions = payload.get("extensions") or {}
        if "errors" in payload:
            [error] = payload["errors"]
            match error["extensions"]["code"]:
                case "CURSOR_EXPIRED":
                    self._told(ends=False)
                case "EVENT_UNREADABLE":
                    self._world.saw("a client got an event that can't be read")
                    self._got(UNREADABLE, extensions)
                case _:
                    self.failures.append(f"{self.name} got {error}")
            return
        [value] = payload["data"].values()
        if isinstance(value, str):
            viewer, _, value = value.partition(" ")
            if viewer != self.name:
                self.failures.append(f"{self.name} got what was made for {viewer}")
        number = int(value["number"] if isinstance(value, dict) else value)
        self._got(json.dumps({"number": number}, separators=(",", ":")).encode(), extensions)

    def _got(self, payload: bytes, extensions: dict[str, Any]) -> None:
        before, self._cursor = self._cursor, str(extensions["cursor"])
        if before is not None and before.split("-")[0] != self._cursor.split("-")[0]:
            self._world.saw("an epoch changed in the middle of a stream")
        again = bool(extensions.get("redelivered"))
        if again:
            self._world.saw("a client got a repeat that was marked")
        self._note(f"gets {payload.decode()} at {self._cursor}{' again' if again else ''}")
        self.log.append(Got(str(self._cursor), payload, again, CLOCK.now))
        assert self.process is not None
        # What was sent in time may have waited for the client.
        until = max(self._expires_at, self._reads_from) + _LATE_SECONDS
        if CLOCK.now > until and not self.process.loop.skew:
            self.failures.append(f"{self.name} got {payload.decode()} with an expired token")

    def _pong(self, message: dict[str, Any]) -> None:
        cursors = message.get("payload", {}).get("gqlnotify", {}).get("cursors", {})
        if self._id in cursors:
            self._hear_of_operation()
            if not self._armed:
                self._began(cursors[self._id])
        assert self.socket is not None
        self.socket.send({**message, "type": "pong"})

    def _began(self, cursor: str) -> None:
        self._note(f"begins after {cursor}")
        self.log.append(Began(cursor, CLOCK.now))
        self._armed = True

    def _told(self, *, ends: bool) -> None:
        self._note(f"is told that it missed events{', by an error' if ends else ''}")
        how = "by an error" if ends else "in its stream"
        self._world.saw(f"a client was told of a gap {how}")
        self.log.append(Told(CLOCK.now, ends))
        self.was_told = True
        self._cursor, self._armed = None, not ends

    def _send(self, type_: str, payload: Any, **more: Any) -> None:
        assert self.socket is not None
        self.socket.send({"type": type_, "payload": payload, **more})

    def _note(self, what: str) -> None:
        self._world.note(self.name, what)
