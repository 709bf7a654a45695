"""What this process tells the broker of those who are present in it."""

import asyncio
from collections.abc import Sequence

import pytest
from typing_extensions import override

from gqlnotify import Settings
from gqlnotify.brokers import MemoryBroker
from gqlnotify.brokers.memory_presence import MemoryPresence
from gqlnotify.brokers.presence import Patience, Registration, room_of
from gqlnotify.topics import attendances
from gqlnotify.topics.attendances import Attendances
from gqlnotify.topics.attendee import Attendee
from tests.waiting import wait_until

TOPICS = [f"rooms.{number}" for number in range(20)]


class SlowPresence(MemoryPresence):
    """Takes 0.02 seconds for each room that a process beats for."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker.publish, broker.head)
        self.beaten = set[str]()

    @override
    async def beat(
        self, registrations: Sequence[Registration], patience: Patience
    ) -> Sequence[bool]:
        for each in registrations:
            await asyncio.sleep(0.02)
            self.beaten.add(each.room)
        return await super().beat(registrations, patience)


async def test_a_process_beats_for_more_topics_than_one_step_has_time_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attendances, "_STEP_SECONDS", 0.2)
    monkeypatch.setattr(attendances, "ROOMS_AT_ONCE", 2)
    monkeypatch.setattr(attendances, "BEAT_SECONDS", 0.1)
    broker = MemoryBroker()
    broker.presence = presence = SlowPresence(broker)
    present = Attendances(broker, Settings(), lambda _topic: False)
    for topic in TOPICS:
        present.attend(topic, Attendee("alice"))

    await wait_until(lambda: presence.beaten == {room_of(topic) for topic in TOPICS})
    present.reset()
