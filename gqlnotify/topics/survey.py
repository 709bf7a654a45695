"""Asks all processes that share a broker, and collects their answers.

Each process listens to one reserved topic of requests, and publishes its answers to a topic of the
process that asks. Both are only live: a request or an answer that gets lost is not repeated, and
its process is reported as silent. What tells who exists is a third topic, to which each process
says hello at its start and every 20 seconds.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from importlib.metadata import version
from inspect import isawaitable
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from gqlnotify import clock
from gqlnotify.brokers import Broker
from gqlnotify.errors import BrokerUnavailable, CursorExpired, NotifyError
from gqlnotify.event import Event
from gqlnotify.settings import HELLOS, SURVEYS

ANSWER_SECONDS = 1.0
"""How long a process may take to answer."""
MAX_ANSWER = 1_000_000
"""The longest answer of a process, in characters of JSON. A longer one is an error."""

HELLO_SECONDS = 20.0
_GOODBYE_SECONDS = 0.5
_HEAR_SECONDS = 5.0
# Encoded a second time, as a string of a reply, it stays far below the limit of an event.
_PIECE = 30_000
_MAX_PIECES = -(-MAX_ANSWER // _PIECE)
_PAGE = 500
# Requests that a process answers at the same time. It ignores more of them.
_AT_ONCE = 32
# For the broker's clock and ours, and for a process that was stopped in the meantime.
_OLD_SECONDS = 60.0

_REQUESTS = f"{SURVEYS}requests"
_REPLIES = f"{SURVEYS}replies."

logger = logging.getLogger("gqlnotify.survey")

Arguments = Mapping[str, Any]
Handler = Callable[[Arguments], Any]
"""Answers a request. It gets the arguments, and returns a JSON value or an awaitable of one."""


class Process(BaseModel):
    """One process, or one of several topic managers in it.

    Attributes:
        id: A random name of the topic manager.
        host: The name of its machine.
        pid: Its process id there.
        started_at: When the topic manager started, in seconds since 1970.
        version: The version of gqlnotify.
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(max_length=64)
    host: str = Field(max_length=255)
    pid: int
    started_at: float
    version: str = Field(max_length=64)

    @property
    def name(self) -> str:
        """The name for people: host, process id, and a few letters that tell managers apart."""
        return f"{self.host}:{self.pid}:{self.id[:4]}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process answered.

    Attributes:
        process: Who answers.
        value: The JSON value that its handler returned; None if there is an error.
        error: Why there is no value: the handler failed, the answer is too long, or the process
            does not know this kind of request.
        is_known: Whether the process knows this kind of request.
    """

    process: Process
    value: Any = None
    error: str | None = None
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers, and the known processes that did not answer in time."""

    answers: tuple[Answer, ...]
    silent: tuple[Process, ...] = ()


class _Hello(BaseModel):
    process: Process
    leaves: bool = False


class _Request(BaseModel):
    id: str = Field(max_length=64)
    asker: str = Field(pattern="^[0-9a-f]{32}$")
    kind: str = Field(max_length=100)
    arguments: dict[str, Any] = {}
    seconds: float = Field(gt=0, le=60)


class _Reply(BaseModel):
    id: str = Field(max_length=64)
    process: Process
    piece: int = Field(ge=0, lt=_MAX_PIECES)
    pieces: int = Field(gt=0, le=_MAX_PIECES)
    text: str


class _Content(BaseModel):
    value: JsonValue = None
    error: str | None = None
    is_known: bool = True


@dataclass
class _Collecting:
    """The answers to one request so far, and whom it waits for."""

    expected: set[str]
    pieces: dict[str, dict[int, str]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, reply: _Reply) -> None:
        """Take one piece of an answer."""
        known = self.pieces.setdefault(reply.process.id, {})
        known[reply.piece] = reply.text
        if len(known) == reply.pieces:
            text = "".join(known[number] for number in sorted(known))
            content = _Content.model_validate_json(text)
            self.answers[reply.process.id] = Answer(
                reply.process, content.value, content.error, content.is_known
            )
        if self.expected and self.expected <= set(self.answers):
            self.complete.set()


class Survey:
    """Asks and answers for one `TopicManager`.

    A broker in this process's memory has one process only, which answers without the broker.
    """

    def __init__(self, broker: Broker) -> None:
        self.only_asks = False
        """Whether this process answers nothing and is not known. Set this before the start."""
        self._broker = broker
        self._handlers: dict[str, Handler] = {}
        self._process = _this_process()
        self._listening: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._collecting: dict[str, _Collecting] = {}
        self._hears_replies = False
        self._has_said_hello = False

    @property
    def process(self) -> Process:
        """How this process is known to the others."""
        return self._process

    def on(self, kind: str, handler: Handler) -> None:
        """Answer requests of this kind with `handler`, which replaces an earlier one."""
        self._handlers[kind] = handler

    async def ask(
        self, kind: str, arguments: Arguments | None = None, *, seconds: float = ANSWER_SECONDS
    ) -> Answers:
        """Ask all processes, and return as soon as all known ones have answered.

        Args:
            kind: Selects the handler in each process.
            arguments: What the handlers get, as JSON.
            seconds: How long to wait at most.

        Raises:
            BrokerUnavailable: The broker can't be reached.
        """
        if not self._broker.shared:
            return Answers((await self._answer(kind, arguments or {}, seconds),))
        await self._hear_replies()
        known = await self._known()
        request = _Request(
            id=uuid4().hex,
            asker=self._process.id,
            kind=kind,
            arguments=dict(arguments or {}),
            seconds=seconds,
        )
        collecting = self._collecting[request.id] = _Collecting(set(known))
        try:
            await self._broker.publish(_REQUESTS, request.model_dump_json().encode())
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await collecting.complete.wait()
        finally:
            del self._collecting[request.id]
        silent = [known[each] for each in known.keys() - collecting.answers.keys()]
        return Answers(
            tuple(sorted(collecting.answers.values(), key=lambda each: each.process.name)),
            tuple(sorted(silent, key=lambda process: process.name)),
        )

    def use(self, broker: Broker) -> None:
        """Ask through another broker from the next start on."""
        self.reset()
        self._broker = broker

    def start(self) -> None:
        """Begin to listen and to be known. The broker has started."""
        self._process = _this_process()
        if self._broker.shared and not self.only_asks:
            self._listening = asyncio.create_task(self._listen(), context=Context())

    async def close(self) -> None:
        """Stop, and tell the other processes."""
        said_hello = self._has_said_hello
        self.reset()
        if said_hello:
            # The others would only report this process as silent for a minute.
            with suppress(BrokerUnavailable, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._say(_Hello(process=self._process, leaves=True))

    def reset(self) -> None:
        """Stop without a word, because the event loop has ended or the broker changes."""
        for task in (self._listening, *self._answering):
            if task is not None and not task.get_loop().is_closed():
                task.cancel()
        self._listening = None
        self._answering.clear()
        self._hears_replies = self._has_said_hello = False

    def received(self, event: Event) -> None:
        """Take an event of a topic that has no subscribers in this process."""
        if not event.topic.startswith(SURVEYS):
            return
        try:
            if event.topic == _REQUESTS:
                self._asked(_Request.model_validate_json(event.payload), event.published_at)
            else:
                self._answered(_Reply.model_validate_json(event.payload))
        except ValueError:
            logger.warning("Ignored an event of %r, which can't be read", event.topic)

    def _asked(self, request: _Request, published_at: float | None) -> None:
        is_old = published_at is not None and clock.now() - published_at > _OLD_SECONDS
        if is_old or len(self._answering) >= _AT_ONCE:
            return
        # A new context, because the request comes from no viewer and belongs to no trace.
        task = asyncio.create_task(self._reply(request), context=Context())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _answered(self, reply: _Reply) -> None:
        collecting = self._collecting.get(reply.id)
        if collecting is not None:
            collecting.add(reply)

    async def _reply(self, request: _Request) -> None:
        answer = await self._answer(request.kind, request.arguments, request.seconds)
        for reply in _replies(request, answer):
            try:
                await self._broker.publish(
                    f"{_REPLIES}{request.asker}", reply.model_dump_json().encode()
                )
            except BrokerUnavailable as error:
                logger.warning("Can't answer %r: %s", request.kind, error.reason)
                return

    async def _answer(self, kind: str, arguments: Arguments, seconds: float) -> Answer:
        handler = self._handlers.get(kind)
        if handler is None:
            error = f"gqlnotify {self._process.version} does not know {kind!r} here"
            return Answer(self._process, error=error, is_known=False)
        try:
            async with asyncio.timeout(seconds):
                made = handler(arguments)
                return Answer(self._process, await made if isawaitable(made) else made)
        except TimeoutError:
            return Answer(self._process, error=f"The answer took longer than {seconds} s")
        except NotifyError as error:
            return Answer(self._process, error=error.message)
        except Exception as error:
            logger.exception("Can't answer %r", kind)
            return Answer(self._process, error=f"The handler failed: {type(error).__name__}")

    async def _hear_replies(self) -> None:
        if self._hears_replies:
            return
        try:
            async with asyncio.timeout(_HEAR_SECONDS):
                # This waits for a broker that can't be reached.
                await self._broker.subscribe(f"{_REPLIES}{self._process.id}")
        except TimeoutError:
            raise BrokerUnavailable("The broker did not confirm a subscription in time") from None
        self._hears_replies = True

    async def _listen(self) -> None:
        await self._broker.subscribe(_REQUESTS)
        while True:
            try:
                await self._say(_Hello(process=self._process))
                self._has_said_hello = True
            except BrokerUnavailable as error:
                logger.warning("Can't tell the other processes of this one: %s", error.reason)
            await asyncio.sleep(HELLO_SECONDS)

    async def _say(self, hello: _Hello) -> None:
        await self._broker.publish(HELLOS, hello.model_dump_json().encode())

    async def _known(self) -> dict[str, Process]:
        """Return the processes that have said hello in the last minute and did not leave."""
        known = dict[str, Process]()
        for event in await self._hellos():
            try:
                hello = _Hello.model_validate_json(event.payload)
            except ValidationError:
                continue
            if hello.leaves:
                known.pop(hello.process.id, None)
            else:
                known[hello.process.id] = hello.process
        return known

    async def _hellos(self) -> list[Event]:
        events = list[Event]()
        after = await self._broker.oldest(HELLOS)
        # It was trimmed in the meantime: those who are still there have said hello again.
        with suppress(CursorExpired):
            while page := await self._broker.read(HELLOS, after, _PAGE):
                events += page
                after = events[-1].cursor
        return events


def _replies(request: _Request, answer: Answer) -> Iterator[_Reply]:
    content = {"value": answer.value, "error": answer.error, "is_known": answer.is_known}
    try:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps({"error": "The answer can't be encoded as JSON"})
    if len(text) > MAX_ANSWER:
        error = f"The answer has {len(text)} characters, and at most {MAX_ANSWER} are sent"
        text = json.dumps({"error": error})
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    for number, piece in enumerate(pieces):
        yield _Reply(
            id=request.id,
            process=answer.process,
            piece=number,
            pieces=len(pieces),
            text=piece,
        )


def _this_process() -> Process:
    # Made at each start, because a server may fork after the application was imported.
    return Process(
        id=uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=clock.now(),
        version=version("gqlnotify"),
    )
