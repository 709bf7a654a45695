"""A server that was written from docs/spec.md alone, and shares no code with gqlnotify.

It executes no GraphQL: each subscription gets the events of the topic in its variables. It keeps
all in memory, in one process. Section numbers are those of the specification.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

HISTORY = 12
_RANDOM_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE
)
_EXPIRED = {"message": "Too late", "extensions": {"code": "CURSOR_EXPIRED"}}
_NO_CURSOR = {"message": "No cursor", "extensions": {"code": "BAD_USER_INPUT"}}


class Refused(Exception):
    """The operation ends with this error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error["message"])
        self.error = error


class Stream:
    """The events of one topic, the newest of which can be read again."""

    def __init__(self) -> None:
        self.head = 0
        self._values: dict[int, str] = {}
        self._changed = asyncio.Condition()

    async def publish(self, value: str) -> None:
        async with self._changed:
            self.head += 1
            self._values[self.head] = value
            self._values.pop(self.head - HISTORY, None)
            self._changed.notify_all()

    def reaches_back_to(self, position: int) -> bool:
        return self.head - HISTORY <= position <= self.head

    async def after(self, position: int) -> AsyncIterator[tuple[int, str]]:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda at=position: self.head > at)  # type: ignore[misc]
            position += 1
            if position not in self._values:
                raise Refused(_EXPIRED)
            yield position, self._values[position]


@dataclass
class Position:
    """How far the client of one operation has got, on one connection."""

    acknowledged: int
    sent: int
    connected: bool = True


@dataclass
class Server:
    """What all connections share."""

    streams: defaultdict[str, Stream] = field(default_factory=lambda: defaultdict(Stream))
    positions: defaultdict[tuple[str, ...], list[Position]] = field(
        default_factory=lambda: defaultdict(list)
    )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":
            await Socket(self, receive, send).serve()
        elif scope["type"] == "http" and scope["path"] == "/publish":
            request = json.loads(await _body(receive))
            await self.streams[request["topic"]].publish(request["value"])
            await _answer(send, b"{}", b"application/json")
        elif scope["type"] == "http":
            await self._stream(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["method"] == "POST":
            request = json.loads(await _body(receive))
        else:
            request = dict(parse_qsl(scope["query_string"].decode()))
            request["variables"] = json.loads(request["variables"])
        if "text/event-stream" in headers["accept"]:
            parts, media_type = self._events(request, headers), b"text/event-stream"
        else:
            parts, media_type = self._parts(request), b"multipart/mixed; boundary=part"
        sending = asyncio.create_task(_send_all(send, parts, media_type))
        leaving = asyncio.create_task(_gone(receive))
        await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        sending.cancel()
        leaving.cancel()

    async def _events(
        self, request: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[str]:
        """Section 5."""
        stream = self.streams[request["variables"]["topic"]]
        last = headers.get("last-event-id")
        try:
            if last:
                begin = _parsed(last)
                if begin is None or not stream.reaches_back_to(begin):
                    begin = stream.head
                    yield f"id: {_cursor(begin)}\n{_event(_gap(begin))}"
            else:
                begin = _begin(stream, request)
            yield f"retry: 1000\nid: {_cursor(begin)}\n\n"
            async for place, value in stream.after(begin):
                yield f"id: {_cursor(place)}\n{_event(_result(place, value))}"
        except Refused as refused:
            yield f"{_event({'data': None, 'errors': [refused.error]})}event: complete\ndata:\n\n"

    async def _parts(self, request: Mapping[str, Any]) -> AsyncIterator[str]:
        """Section 6: each part is followed by the delimiter of the next one."""
        stream = self.streams[request["variables"]["topic"]]
        yield "--part"
        try:
            async for place, value in stream.after(_begin(stream, request)):
                yield _part(_result(place, value))
        except Refused as refused:
            yield _part({"data": None, "errors": [refused.error]}) + "--\r\n"


class Socket:
    """One connection over WebSocket."""

    def __init__(self, server: Server, receive: Receive, send: Send) -> None:
        self._server, self._receive, self._send = server, receive, send
        self._subject = ""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._resumable: dict[str, tuple[tuple[str, ...], Position]] = {}
        # Section 4.3
        self._count = 0
        self._unanswered: list[tuple[int, dict[str, int]]] = []
        self._echoes = False
        self._trusts_bare_pongs = True

    async def serve(self) -> None:
        await self._receive()
        await self._send({"type": "websocket.accept", "subprotocol": "graphql-transport-ws"})
        while (message := await self._receive())["type"] == "websocket.receive":
            await self._take(json.loads(message["text"]))
        for task in self._tasks.values():
            task.cancel()
        for _, position in self._resumable.values():
            position.connected = False

    async def _take(self, message: Mapping[str, Any]) -> None:
        id_, payload = message.get("id", ""), message.get("payload")
        match message["type"]:
            case "connection_init":
                self._subject = (payload or {})["user"]
                await self._tell(type="connection_ack")
            case "ping":
                await self._tell(type="pong", payload=payload)
            case "pong":
                await self._pong(payload)
            case "subscribe":
                self._tasks[id_] = asyncio.create_task(self._run(id_, payload or {}))
            case "complete":
                self._forget(id_)

    async def _run(self, id_: str, request: Mapping[str, Any]) -> None:
        stream = self._server.streams[request["variables"]["topic"]]
        try:
            begin, marked_until = _begin(stream, request), 0
            if _after(request) is None and _RANDOM_UUID.fullmatch(id_):
                begin, marked_until = await self._come_back(id_, request, stream, begin)
            while True:
                begin = await self._follow(id_, stream, begin, marked_until)
        except Refused as refused:
            await self._tell(type="error", id=id_, payload=[refused.error])

    async def _follow(self, id_: str, stream: Stream, begin: int, marked_until: int) -> int:
        """Send results until the history is lost. Return where to go on."""
        try:
            async for place, value in stream.after(begin):
                told = _result(place, value, redelivered=place <= marked_until)
                await self._tell_result(id_, place, told)
        except Refused:
            if id_ not in self._resumable:
                raise
        return await self._tell_gap(id_, stream.head)

    async def _tell_result(self, id_: str, place: int, result: Mapping[str, Any]) -> None:
        if id_ in self._resumable:
            self._resumable[id_][1].sent = place
        await self._tell(type="next", id=id_, payload=result)
        await self._ask()

    async def _come_back(
        self, id_: str, request: Mapping[str, Any], stream: Stream, begin: int
    ) -> tuple[int, int]:
        """Sections 4.4 to 4.6. Return where to begin, and up to where to mark results."""
        variables = json.dumps(request["variables"], sort_keys=True)
        name = str(request.get("operationName"))
        key = (self._subject, id_, request["query"], name, variables)
        known = self._server.positions[key]
        marked_until = 0
        if known:
            least = min(known, key=lambda each: each.acknowledged)
            marked_until = least.sent if len(known) == 1 else stream.head
            begin = least.acknowledged
            if not least.connected:
                known.remove(least)
        position = Position(begin, begin)
        known.append(position)
        self._resumable[id_] = key, position
        await self._ping({id_: begin})
        if stream.reaches_back_to(begin):
            return begin, marked_until
        return await self._tell_gap(id_, stream.head), 0

    async def _tell_gap(self, id_: str, place: int) -> int:
        await self._tell_result(id_, place, _gap(place))
        return place

    def _forget(self, id_: str) -> None:
        if id_ in self._tasks:
            self._tasks.pop(id_).cancel()
        if id_ in self._resumable:
            key, position = self._resumable.pop(id_)
            self._server.positions[key].remove(position)

    async def _ask(self) -> None:
        """Section 4.2."""
        news = {
            id_: position.sent
            for id_, (_, position) in self._resumable.items()
            if position.sent > position.acknowledged
        }
        if news and not self._unanswered:
            await self._ping(news)

    async def _ping(self, places: dict[str, int]) -> None:
        self._count += 1
        self._unanswered.append((self._count, places))
        cursors = {id_: _cursor(place) for id_, place in places.items()}
        await self._tell(
            type="ping", payload={"gqlnotify": {"ack": self._count, "cursors": cursors}}
        )

    async def _pong(self, payload: Any) -> None:
        number = self._bare_pong() if payload is None else self._number_of(payload)
        while self._unanswered and self._unanswered[0][0] <= number:
            for id_, place in self._unanswered.pop(0)[1].items():
                if id_ in self._resumable:
                    self._resumable[id_][1].acknowledged = place
        await self._ask()

    def _number_of(self, payload: Any) -> int:
        ours = payload.get("gqlnotify")
        number = ours.get("ack") if isinstance(ours, dict) else None
        if type(number) is not int or not 0 < number <= self._count:
            return 0
        self._echoes = True
        return number

    def _bare_pong(self) -> int:
        if not self._unanswered:
            self._trusts_bare_pongs = False
        if self._echoes or not self._trusts_bare_pongs:
            return 0
        return self._unanswered[0][0]

    async def _tell(self, **message: Any) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(message)})


# Sections 2 and 3


def _cursor(place: int) -> str:
    return f"model.{place:08x}"


def _parsed(cursor: object) -> int | None:
    found = re.fullmatch(r"model\.([0-9a-f]{8})", cursor) if isinstance(cursor, str) else None
    return None if found is None else int(found[1], 16)


def _after(request: Mapping[str, Any]) -> object:
    return (request.get("extensions") or {}).get("after")


def _begin(stream: Stream, request: Mapping[str, Any]) -> int:
    after = _after(request)
    if after is None:
        return stream.head
    place = _parsed(after)
    if place is None:
        raise Refused(_NO_CURSOR)
    if not stream.reaches_back_to(place):
        raise Refused(_EXPIRED)
    return place


def _result(place: int, value: str, *, redelivered: bool = False) -> dict[str, Any]:
    mark = {"redelivered": True} if redelivered else {}
    return {"data": {"event": value}, "extensions": {"cursor": _cursor(place), **mark}}


def _gap(place: int) -> dict[str, Any]:
    return {"data": None, "errors": [_EXPIRED], "extensions": {"cursor": _cursor(place)}}


# HTTP


def _event(result: Mapping[str, Any]) -> str:
    return f"event: next\ndata: {json.dumps(result)}\n\n"


def _part(result: Mapping[str, Any]) -> str:
    body = json.dumps({"payload": result})
    return f"\r\nContent-Type: application/json\r\n\r\n{body}\r\n--part"


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_all(send: Send, parts: AsyncIterator[str], media_type: bytes) -> None:
    headers = [(b"content-type", media_type)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for part in parts:
        body = part.encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body"})


async def _answer(send: Send, body: bytes, media_type: bytes) -> None:
    await _send_all(send, _once(body.decode()), media_type)


async def _once(text: str) -> AsyncIterator[str]:
    yield text
