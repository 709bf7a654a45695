"""Rare states that some seeds must reach, and how those inside the library are noticed."""

import asyncio
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from gqlnotify import clock
from gqlnotify.event import Cursor, Event
from gqlnotify.execution.group import Group
from gqlnotify.topics import live_topic
from gqlnotify.topics.live_topic import LiveTopic
from gqlnotify.topics.replay_buffer import ReplayBuffer
from gqlnotify.topics.resumption import Resumption
from gqlnotify.topics.resumptions import Resumptions
from gqlnotify.websocket.session import Session

JOINING = "a gap while a client was joining"
OPENING = "an event arrived while its topic opened"
READING = "an event arrived while a page was read"
CLOSING = "a topic was joined while it closed"
FULL_PAGE = "a full page was read"
EPOCH = "an epoch changed during a replay"
LAGGING = "a member fell behind"
ENDING = "a member fell behind in the turn in which a token ended, or the next"
SHARED = "two connections had the position of one operation"
SETTLING = "a client waited until positions were saved again"

RARE = (
    "a client resumed",
    "a client got a repeat that was marked",
    "a client was told of a gap in its stream",
    "a client was told of a gap by an error",
    "a half-open connection was noticed",
    "a socket was closed with 1012",
    "an event was published by two processes",
    "a peer read too slowly",
    "a client got an event that can't be read",
    "a client got a snapshot",
    "an epoch changed in the middle of a stream",
    "a connection was lost during a replay",
    "two processes drained at once",
    "a process was killed with events in its outbox",
    "Redis lost events that a client had received",
    *(JOINING, OPENING, READING, CLOSING, FULL_PAGE, EPOCH, LAGGING, ENDING, SHARED, SETTLING),
)
"""If no seed reaches one of them, the simulation has become too tame."""

Notice = Callable[..., str | None]


def observe() -> None:
    """Have these states noted from now on."""
    for owner, name, notice in (
        (LiveTopic, "_restart", _restarts),
        (LiveTopic, "deliver", _delivers),
        (LiveTopic, "_close_if_idle", _closes),
        (ReplayBuffer, "prepend", _has_read),
        (Group, "_leave_behind", _leaves_behind),
        (Session, "_expired", _expires),
        (Resumption, "claimed_by_another", _is_claimed),
        (Resumptions, "_answer_claims", _answers),
    ):
        _wrap(owner, name, notice)


def _wrap(owner: type[Any], name: str, notice: Notice) -> None:
    original = vars(owner)[name]

    @wraps(original)
    def observed(self: Any, *args: Any) -> Any:
        state = notice(self, *args)
        if state is not None:
            _loop().world.saw(state)
        return original(self, *args)

    setattr(owner, name, observed)


def _loop() -> Any:
    return asyncio.get_running_loop()


def _restarts(topic: LiveTopic, _name: str) -> str | None:
    joins = any(each.position < topic.buffer.last for each in topic.subscribers)
    return JOINING if joins else None


def _delivers(topic: LiveTopic, _event: Event) -> str | None:
    if not topic._ready:
        return OPENING
    reads = topic._catching_up is not None and not topic._catching_up.done()
    return READING if reads else None


def _closes(topic: LiveTopic) -> str | None:
    return CLOSING if topic.subscribers else None


def _has_read(buffer: ReplayBuffer, after: Cursor, events: Sequence[Event]) -> str | None:
    if after != buffer.last and any(event.cursor.epoch != after.epoch for event in events):
        return EPOCH
    return FULL_PAGE if len(events) == live_topic.PAGE_SIZE else None


def _leaves_behind(_group: Group, *_: object) -> str:
    loop = _loop()
    loop.lagged_in = loop.turns
    return ENDING if loop.turns - loop.expired_in <= 1 else LAGGING


def _expires(_session: Session) -> str | None:
    loop = _loop()
    loop.expired_in = loop.turns
    return ENDING if loop.turns - loop.lagged_in <= 1 else None


def _is_claimed(resumption: Resumption) -> str | None:
    return SHARED if resumption.runs else None


def _answers(resumptions: Resumptions) -> str | None:
    waits = resumptions._claims and clock.monotonic() < resumptions._settled_at
    return SETTLING if waits else None
