"""Kills processes at the worst instants of an outbox, as `kill -9` does, and shows what is left.

`make outbox-kills` runs it. Each process commits numbers and their events, and publishes. Its
parent forks it, so a hundred of them take seconds.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    event,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from gqlnotify import Cursor, Settings, Topic, TopicManager
from gqlnotify.outbox import Outbox, outbox_table

NUMBERS = Topic("numbers", int)
METADATA = MetaData()
OUTBOX = outbox_table(METADATA)
COMMITTED = Table(
    "committed",
    METADATA,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("number", BigInteger, nullable=False),
)
WRITERS = 2
# Numbers of one writer of one process.
SPAN = 1_000_000
# Seconds for one process.
PATIENCE = 60
HISTORY = 1_000_000


class Refused(Exception):
    """Rolls a transaction back."""


def before_the_commit(die: Callable[[], None]) -> None:
    """With everything written, and the database not yet told to keep it."""

    def executed(connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT INTO gqlnotify_outbox"):
            connection.info["added"] = True

    def commit(connection: Connection) -> None:
        if connection.info.pop("added", False):
            die()

    event.listen(Engine, "after_cursor_execute", executed)
    event.listen(Engine, "commit", commit)


def after_the_commit(die: Callable[[], None]) -> None:
    """Before the process that publishes is woken."""

    def wake(self: Outbox) -> None:
        die()

    Outbox.wake = wake  # type: ignore[method-assign]


def after_the_lock(die: Callable[[], None]) -> None:
    """Before the events are read."""

    def executing(_connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("SELECT gqlnotify_outbox.id"):
            die()

    event.listen(Engine, "before_cursor_execute", executing)


def after_a_publish(die: Callable[[], None]) -> None:
    """Before the event is deleted."""
    original = TopicManager.publish_bytes

    async def publish_bytes(self: TopicManager, *args: Any, **kwargs: Any) -> Cursor:
        cursor = await original(self, *args, **kwargs)
        die()
        return cursor

    TopicManager.publish_bytes = publish_bytes  # type: ignore[method-assign]


def after_the_delete(die: Callable[[], None]) -> None:
    """Once its commit is done."""
    deleting: list[Any] = []

    def executed(_connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("DELETE FROM gqlnotify_outbox"):
            deleting.append(asyncio.current_task())

    def commit(_session: Session) -> None:
        if asyncio.current_task() in deleting:
            die()

    event.listen(Engine, "after_cursor_execute", executed)
    event.listen(Session, "after_commit", commit)


INSTANTS = (before_the_commit, after_the_commit, after_the_lock, after_a_publish, after_the_delete)


def die_at(instant: Callable[[Callable[[], None]], None], hits: int) -> None:
    """Have this process kill itself the `hits`-th time that it reaches the instant."""
    left = hits

    def die() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    instant(die)


class Application:
    """A database, a broker and an outbox between them."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self.engine: AsyncEngine = create_async_engine(database_url)
        self.sessions = async_sessionmaker(self.engine)
        # At the end, the history has to hold all events.
        settings = Settings(broker_url=broker_url, history_length=HISTORY)
        self.topics = TopicManager(settings=settings)
        self.outbox = Outbox(self.topics, self.sessions, OUTBOX)

    async def write(self, first: int) -> None:
        """Commit numbers without end. Every third transaction is rolled back."""
        for number in count(first):
            try:
                await self._write(number)
            except Refused:
                continue

    async def _write(self, number: int) -> None:
        async with self.sessions.begin() as session:
            self.outbox.add(session, NUMBERS, number)
            await session.execute(COMMITTED.insert().values(number=number))
            if number % 3 == 2:
                raise Refused

    async def work(self, process: int) -> None:
        """Commit and publish until this process is killed."""
        async with self.outbox:
            writers = (self.write((process * WRITERS + n) * SPAN) for n in range(WRITERS))
            await asyncio.gather(*writers)

    async def result(self, start: str) -> dict[str, list[int]]:
        """Publish what is left, and return all numbers, as committed and as published."""
        async with self.topics.held_open():
            await self.outbox.drain()
            async with self.sessions() as session:
                committed = select(COMMITTED.c.number).order_by(COMMITTED.c.position)
                numbers = list(await session.scalars(committed))
            events = (await self.topics.cursor(NUMBERS)).seq - Cursor.parse(start).seq
            stream = self.topics.subscribe(NUMBERS, after=start)
            published = [await anext(stream) for _ in range(events)]
            await stream.aclose()
        await self.engine.dispose()
        return {"committed": numbers, "published": published}

    async def prepare(self) -> str:
        """Create the tables, and return the cursor before the first event."""
        async with self.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        await self.engine.dispose()
        async with self.topics.held_open():
            return await self.topics.cursor(NUMBERS)


def main() -> None:
    """Kill processes, and print the numbers that were committed and published, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    def application() -> Application:
        return Application(options.database, options.broker)

    random = Random(options.seed)
    start = asyncio.run(application().prepare())
    for process in range(options.kills):
        hits = random.randint(1, 10)
        child = os.fork()
        if not child:
            # If it can't reach the instant, it must not run for ever.
            signal.alarm(PATIENCE)
            die_at(INSTANTS[process % len(INSTANTS)], hits)
            asyncio.run(application().work(process))
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"Process {process} ended by itself")
    print(json.dumps(asyncio.run(application().result(start))))


if __name__ == "__main__":
    main()
