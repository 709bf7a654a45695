"""Follows who is present in the clients' room, and checks that joined and left alternate."""

import asyncio
from contextlib import aclosing, suppress
from threading import Thread

from gqlnotify import Changed, Joined, Left, Present, Settings, TopicManager
from gqlnotify.errors import BrokerUnavailable
from schema.chat.types import room_topic

ROOM = "chaos"
_RETRY_SECONDS = 0.1


def subject_of(client: int) -> str:
    """Return the subject of a client, as in `chaos.mjs`."""
    return f"client-{client}"


class Watcher:
    """Follows the presence of the room, in a thread with an event loop of its own."""

    def __init__(self, settings: Settings) -> None:
        self.people: frozenset[str] = frozenset()
        self.broken: list[str] = []
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] = self._loop.create_task(self._follow())
        self._thread = Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End, and return once nothing runs any more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    async def _follow(self) -> None:
        topics = TopicManager(settings=self._settings)
        async with topics.held_open(), aclosing(topics.presence(room_topic(ROOM))) as stream:
            while True:
                try:
                    self._take(await anext(stream))
                except BrokerUnavailable:
                    await asyncio.sleep(_RETRY_SECONDS)

    def _take(self, each: Present | Joined | Left | Changed) -> None:
        if isinstance(each, Present):
            self.people = frozenset(member.subject for member in each.members)
            return
        subject = each.member.subject
        was_there = subject in self.people
        if isinstance(each, Joined) == was_there:
            self.broken.append(f"{type(each).__name__} of {subject}, who was there: {was_there}")
        self.people -= {subject}
        if not isinstance(each, Left):
            self.people |= {subject}
