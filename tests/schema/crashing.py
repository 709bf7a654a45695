"""The task service in a process that kills itself, the way `kill -9` does, where CRASH_AT says.

Until then it publishes nothing, so that at the instant of the crash every event is in danger.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Connection, Engine, event

from gqlnotify import Cursor, TopicManager
from schema.app import create_app
from schema.outbox import Outbox

CHANGES = 3
"""The crash comes with this change, or once this many are committed."""


def build() -> FastAPI:
    point = os.environ.get("CRASH_AT")
    if point is not None:
        _POINTS[point]()
    return create_app()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before_commit() -> None:
    _hold_the_drain()
    _die_at_commit_of("INSERT INTO outbox", CHANGES)


def _after_commit() -> None:
    _hold_the_drain()
    _replace_wake(lambda changes: _die() if changes == CHANGES else None)


def _before_publish() -> None:
    _drain_when_all_are_committed()
    _around_publish(before=_die_at_call(2))


def _after_publish() -> None:
    _drain_when_all_are_committed()
    _around_publish(after=_die_at_call(2))


def _before_delete() -> None:
    _drain_when_all_are_committed()
    _die_at_commit_of("DELETE FROM outbox", 1)


_POINTS: dict[str, Callable[[], None]] = {
    "before the commit": _before_commit,
    "after the commit": _after_commit,
    "before a publish": _before_publish,
    "after a publish": _after_publish,
    "before the delete commits": _before_delete,
}


def _die_at_commit_of(statement: str, count: int) -> None:
    commits = 0

    def executed(connection: Connection, _cursor: Any, executing: str, *_rest: Any) -> None:
        if executing.startswith(statement):
            connection.info["hit"] = True

    def commit(connection: Connection) -> None:
        # Everything is written by now, and the database has not been told to keep it.
        nonlocal commits
        if connection.info.pop("hit", False):
            commits += 1
            if commits == count:
                _die()

    event.listen(Engine, "after_cursor_execute", executed)
    event.listen(Engine, "commit", commit)


def _replace_wake(then: Callable[[int], None]) -> None:
    changes = 0

    def wake(self: Outbox) -> None:
        nonlocal changes
        changes += 1
        then(changes)

    Outbox.wake = wake  # type: ignore[method-assign]


def _hold_the_drain() -> None:
    async def drain(self: Outbox) -> None:
        await asyncio.Event().wait()

    Outbox.drain = drain  # type: ignore[method-assign]


def _drain_when_all_are_committed() -> None:
    original = Outbox.drain
    committed = asyncio.Event()
    _replace_wake(lambda changes: committed.set() if changes == CHANGES else None)

    async def drain(self: Outbox) -> None:
        await committed.wait()
        await original(self)

    Outbox.drain = drain  # type: ignore[method-assign]


def _die_at_call(number: int) -> Callable[[], None]:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            _die()

    return call


def _around_publish(
    before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> None:
    original = TopicManager.publish_bytes

    async def publish_bytes(
        self: TopicManager, topic: str, payload: bytes, *, event_id: str | None = None
    ) -> Cursor:
        before()
        cursor = await original(self, topic, payload, event_id=event_id)
        after()
        return cursor

    TopicManager.publish_bytes = publish_bytes  # type: ignore[method-assign]
