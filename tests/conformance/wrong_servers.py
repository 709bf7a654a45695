"""Servers that break one rule of docs/spec.md each: the task service behind a line that garbles.

`/<name of the fault>/graphql` is the address of each of them.
"""

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Json = MutableMapping[str, Any]
_UNTIL_IT_STOPS = 0.5
_A_UUID = "5a1c1a7e-3f3b-4b5e-9d0a-0123456789ab"


class Fault:
    """One connection to a wrong server. Without a subclass it changes nothing.

    Attributes:
        shared: what all connections of this fault remember.
    """

    def __init__(self, shared: dict[str, Any]) -> None:
        self.shared = shared
        self._to_server: asyncio.Queue[Message] = asyncio.Queue()
        self._to_client: list[Json] = []
        self._closing: asyncio.Task[None] | None = None

    # What subclasses override

    def from_client(self, message: Json) -> Iterator[Json]:
        """Yield what the server receives in place of a message."""
        yield message

    def from_server(self, message: Json) -> Iterator[Json]:
        """Yield what the client receives in place of a message."""
        yield message

    def request(self, scope: Scope) -> None:
        """Change a request over HTTP."""

    def body(self, content: Json) -> Json:
        """Return what the server receives in place of the body of a request."""
        return content

    def block(self, text: str) -> str:
        """Return what the client receives in place of a part of an HTTP stream."""
        return text

    # What subclasses call

    def tell_server(self, **message: Any) -> None:
        """Send the server a message of our own."""
        self._to_server.put_nowait(_received(message))

    def tell_client(self, message: Json) -> None:
        """Send the client a message of our own, before the next one of the server."""
        self._to_client.append(message)

    def close_soon(self, code: int) -> None:
        """Close the socket, as a server that does not wait for anything."""
        self._closing = self._closing or asyncio.create_task(self._close(code))

    def complete_soon(self) -> None:
        """End a stream of Server-Sent Events as if its operation had ended."""
        self._closing = self._closing or asyncio.create_task(self._complete())

    # The line

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":
            await self._serve_socket(app, scope, receive, send)
            return
        self.request(scope)
        self._send = send

        async def receive_body() -> Message:
            message = await receive()
            if message.get("body"):
                content = self.body(json.loads(message["body"]))
                message = {**message, "body": json.dumps(content).encode()}
            return message

        async def send_block(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                message = {**message, "body": self.block(message["body"].decode()).encode()}
            if message["type"] == "http.response.start":
                kept = [each for each in message["headers"] if each[0] != b"content-length"]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive_body, send_block)

    async def _serve_socket(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def read() -> None:
            while True:
                message = await receive()
                if message["type"] != "websocket.receive":
                    self._to_server.put_nowait(message)
                    continue
                for each in self.from_client(json.loads(message["text"])):
                    self._to_server.put_nowait(_received(each))

        async def send_message(message: Message) -> None:
            if message["type"] != "websocket.send":
                await send(message)
                return
            told = list(self.from_server(json.loads(message["text"])))
            first, self._to_client = self._to_client, []
            for each in [*first, *told]:
                await send({"type": "websocket.send", "text": json.dumps(each)})

        self._send = send
        reading = asyncio.create_task(read())
        try:
            await app(scope, self._to_server.get, send_message)
        finally:
            reading.cancel()

    async def _complete(self) -> None:
        await asyncio.sleep(_UNTIL_IT_STOPS)
        body = b"event: complete\ndata: \n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _close(self, code: int) -> None:
        await asyncio.sleep(_UNTIL_IT_STOPS)
        await self._send({"type": "websocket.close", "code": code})
        self._to_server.put_nowait({"type": "websocket.disconnect", "code": code})


def _received(message: Any) -> Message:
    return {"type": "websocket.receive", "text": json.dumps(message)}


def wrong_servers(app: ASGIApp) -> ASGIApp:
    """Return an application that serves `app` with each fault, at an address of its own."""
    faults = {each.__name__: (each, dict[str, Any]()) for each in _all_of(Fault)}

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        name, _, path = scope["path"].removeprefix("/").partition("/")
        fault, shared = faults[name]
        own = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode()}
        await fault(shared).serve(app, own, receive, send)

    return serve


def _all_of(fault: type[Fault]) -> Iterator[type[Fault]]:
    yield fault
    for each in fault.__subclasses__():
        yield from _all_of(each)


def _extensions(message: Json) -> Json:
    """Return the extensions of a result; an empty dict for other messages."""
    extensions: Json = message["payload"].get("extensions") if message["type"] == "next" else {}
    return extensions or {}


def _asks(message: Json) -> Json:
    """Return the member of an acknowledging ping; an empty dict for other messages."""
    payload = (message.get("payload") or {}) if message["type"] == "ping" else {}
    asked: Json = payload.get("gqlnotify", {})
    return asked


def _is_bare_pong(message: Json) -> bool:
    return message["type"] == "pong" and message.get("payload") is None


def _is_echo(message: Json) -> bool:
    return message["type"] == "pong" and "gqlnotify" in (message.get("payload") or {})


def _codes(errors: Any) -> list[str]:
    return [each.get("extensions", {}).get("code") for each in errors or ()]


# Cursors


class LosesCursors(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        _extensions(message).pop("cursor", None)
        yield message

    def block(self, text: str) -> str:
        return text.replace('"cursor"', '"position"')


class GivesAllOneCursor(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        if _extensions(message):
            _extensions(message)["cursor"] = "1-1"
        yield message


class SendsEventsOutOfOrder(Fault):
    """It sends the fifth result after the sixth."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._results: list[Json] = []

    def from_server(self, message: Json) -> Iterator[Json]:
        if message["type"] != "next":
            yield message
            return
        self._results.append(message)
        if len(self._results) != 5:
            yield message
        if len(self._results) == 6:
            yield self._results[4]


# Resuming with a cursor


class IgnoresAfter(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "subscribe":
            message["payload"] = self.body(message["payload"])
        yield message

    def body(self, content: Json) -> Json:
        extensions = {**content.get("extensions", {}), "after": None}
        return {**content, "extensions": extensions} if "extensions" in content else content


class RepeatsTheEventOfTheCursor(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "subscribe":
            after = (message["payload"].get("extensions") or {}).get("after")
            if after in self.shared:
                self.tell_client({**self.shared[after], "id": message["id"]})
        yield message

    def from_server(self, message: Json) -> Iterator[Json]:
        cursor = _extensions(message).get("cursor")
        if cursor:
            self.shared[cursor] = message
        yield message


class BeginsLiveAfterABadCursor(Fault):
    """It does the same after an expired one."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._requests: dict[str, Json] = {}

    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "subscribe":
            self._requests[message["id"]] = message
        yield message

    def from_server(self, message: Json) -> Iterator[Json]:
        if message["type"] == "error":
            request = self._requests[message["id"]]
            payload = {**request["payload"], "extensions": {}}
            self.tell_server(**{**request, "payload": payload})
            return
        yield message


# Marks


class MarksAll(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        if _extensions(message):
            _extensions(message)["redelivered"] = True
        yield message


class ForgetsMarks(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        _extensions(message).pop("redelivered", None)
        yield message


class GivesRepeatsANewCursor(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        if _extensions(message).get("redelivered"):
            _extensions(message)["cursor"] += "0"
        yield message


# Acknowledging


class SaysNoPositions(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        if not _asks(message):
            yield message


class ForgetsPositions(Fault):
    """Each connection gives an operation another id."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._ids: dict[str, str] = {}

    def from_client(self, message: Json) -> Iterator[Json]:
        if "id" in message:
            own = self._ids.setdefault(message["id"], str(uuid4()))
            message["id"] = own
        yield message

    def from_server(self, message: Json) -> Iterator[Json]:
        theirs = {own: id_ for id_, own in self._ids.items()}
        if "id" in message:
            message["id"] = theirs[message["id"]]
        asked = _asks(message)
        if asked:
            asked["cursors"] = {theirs[own]: each for own, each in asked["cursors"].items()}
        yield message


class AcknowledgesTooEarly(Fault):
    """It takes what it has sent as received."""

    def from_server(self, message: Json) -> Iterator[Json]:
        if _asks(message):
            self.tell_server(type="pong", payload=message["payload"])
        yield message


class NeverTakesAnAnswer(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] != "pong":
            yield message


class _RemembersTheLastPing(Fault):
    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self.last: Json | None = None

    def from_server(self, message: Json) -> Iterator[Json]:
        if _asks(message):
            self.last = message
        yield message

    def as_answer(self, message: Json) -> Json:
        return message if self.last is None else {**self.last, "type": "pong"}


class CountsNoPings(_RemembersTheLastPing):
    def from_client(self, message: Json) -> Iterator[Json]:
        yield self.as_answer(message) if _is_echo(message) else message

    def from_server(self, message: Json) -> Iterator[Json]:
        for each in super().from_server(message):
            asked = _asks(each)
            yield {**each, "payload": {"gqlnotify": {**asked, "ack": 1}}} if asked else each


class BelievesPongs(_RemembersTheLastPing):
    def from_client(self, message: Json) -> Iterator[Json]:
        ours = (message.get("payload") or {}).get("gqlnotify") if _is_echo(message) else None
        yield self.as_answer(message) if isinstance(ours, dict) else message


class BelievesAnyPong(_RemembersTheLastPing):
    def from_client(self, message: Json) -> Iterator[Json]:
        yield self.as_answer(message) if message["type"] == "pong" else message


class TakesABarePongOfAClientThatEchoes(_RemembersTheLastPing):
    def from_client(self, message: Json) -> Iterator[Json]:
        yield self.as_answer(message) if _is_bare_pong(message) else message


class ForgivesPongsThatNothingAskedFor(_RemembersTheLastPing):
    def from_client(self, message: Json) -> Iterator[Json]:
        if self.last is not None or not _is_bare_pong(message):
            yield message


class TakesPongsInOrderOnly(Fault):
    """A pong that skips a ping acknowledges nothing."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._unanswered: list[int] = []

    def from_server(self, message: Json) -> Iterator[Json]:
        if _asks(message):
            self._unanswered.append(_asks(message)["ack"])
        yield message

    def from_client(self, message: Json) -> Iterator[Json]:
        if not _is_echo(message):
            yield message
        elif message["payload"]["gqlnotify"]["ack"] == self._unanswered[0]:
            del self._unanswered[0]
            yield message


class IgnoresBarePongs(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if not _is_bare_pong(message):
            yield message


# The same operation


class ResumesForAnySubject(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "connection_init":
            message = self.shared.setdefault("init", message)
        yield message


class IgnoresDocumentsAndVariables(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "subscribe":
            message["payload"]["query"] = message["payload"]["query"].strip()
            message["payload"]["variables"].pop("unused", None)
        yield message


class ResumesAnyId(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message.get("id") == "1":
            message["id"] = _A_UUID
        yield message

    def from_server(self, message: Json) -> Iterator[Json]:
        if message.get("id") == _A_UUID:
            message["id"] = "1"
        asked = _asks(message)
        if _A_UUID in asked.get("cursors", {}):
            asked["cursors"]["1"] = asked["cursors"].pop(_A_UUID)
        yield message


class SendsAfterComplete(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] != "complete":
            yield message


class ResumesWhatWasCompleted(SendsAfterComplete):
    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._completed: set[str] = set()

    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "complete":
            self._completed.add(message["id"])
        yield from super().from_client(message)

    def from_server(self, message: Json) -> Iterator[Json]:
        if message.get("id") not in self._completed:
            yield message


class AsksAboutOperationsWithACursor(Fault):
    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._ids: list[str] = []

    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "subscribe":
            self._ids.append(message["id"])
        yield message

    def from_server(self, message: Json) -> Iterator[Json]:
        asked = _asks(message)
        if asked.get("cursors"):
            some = next(iter(asked["cursors"].values()))
            asked["cursors"] = dict.fromkeys(self._ids, some)
        yield message


class EndsTheOlderOfTwoConnections(Fault):
    def from_client(self, message: Json) -> Iterator[Json]:
        if message["type"] == "subscribe":
            older = self.shared.get(message["id"])
            if older is not None:
                older.tell_server(type="complete", id=message["id"])
            self.shared[message["id"]] = self
        yield message


# Expired positions


class EndsAnOperationThatHasExpired(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        errors = message["payload"].get("errors") if message["type"] == "next" else None
        if "CURSOR_EXPIRED" in _codes(errors):
            message = {"type": "error", "id": message["id"], "payload": errors}
        yield message


class HidesAGap(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        errors = message["payload"].get("errors") if message["type"] == "next" else None
        if "CURSOR_EXPIRED" not in _codes(errors):
            yield message


class TellsAGapOnce(Fault):
    def from_server(self, message: Json) -> Iterator[Json]:
        errors = message["payload"].get("errors") if message["type"] == "next" else None
        if "CURSOR_EXPIRED" in _codes(errors):
            if message["id"] in self.shared:
                return
            self.shared[message["id"]] = True
        yield message


# A server that stops


class StopsBadly(Fault):
    """It stops soon after the first result. The command that asks it to stop does nothing."""

    def from_server(self, message: Json) -> Iterator[Json]:
        yield message
        if message["type"] == "next":
            self.close_soon(1012)

    def block(self, text: str) -> str:
        if "event: next" in text:
            self.complete_soon()
        return text


# Streams over HTTP


class SendsEventsWithoutIds(Fault):
    def block(self, text: str) -> str:
        return "".join(line for line in text.splitlines(True) if not _is_id(line, text))


class SaysNoBeginning(Fault):
    def block(self, text: str) -> str:
        return text if "data:" in text or not text.startswith("retry:") else ": nothing\n\n"


class SaysNoTimeToReconnect(Fault):
    def block(self, text: str) -> str:
        return "".join(line for line in text.splitlines(True) if not line.startswith("retry:"))


class IgnoresLastEventId(Fault):
    def request(self, scope: Scope) -> None:
        _without_last_event_id(scope)


class PrefersAfter(Fault):
    def request(self, scope: Scope) -> None:
        if scope["method"] == "POST":
            _without_last_event_id(scope)


class TakesAnEmptyLastEventId(Fault):
    def request(self, scope: Scope) -> None:
        scope["headers"] = [
            (name, value or b"empty") if name == b"last-event-id" else (name, value)
            for name, value in scope["headers"]
        ]


class SendsADelimiterWithTheNextPart(Fault):
    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._held = ""

    def block(self, text: str) -> str:
        text = self._held + text
        complete, delimiter, rest = text.rpartition("--graphql")
        self._held = delimiter + rest
        return complete


class GivesSharedStreamsIds(Fault):
    def block(self, text: str) -> str:
        return text.replace("event: next", "id: 1-1\nevent: next")


class RepeatsWithoutAMark(Fault):
    """A shared stream begins with the last result of the one before."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__(shared)
        self._is_first = True

    def block(self, text: str) -> str:
        if "event: next" not in text:
            return text
        before = self.shared.get("block", "") if self._is_first else ""
        self._is_first = False
        self.shared["block"] = text
        return before + text


def _is_id(line: str, text: str) -> bool:
    return line.startswith("id:") and "data:" in text


def _without_last_event_id(scope: Scope) -> None:
    scope["headers"] = [each for each in scope["headers"] if each[0] != b"last-event-id"]
