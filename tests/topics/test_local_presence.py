"""What this process tells the broker of those who are present in it."""

import asyncio
from collections.abc import Sequence

import pytest
from typing_extensions import override

from gqlnotify import Settings
from gqlnotify.brokers import MemoryBroker
from gqlnotify.brokers.memory_presence import MemoryPresence
from gqlnotify.brokers.presence import Patience, Registration, presence_topic
from gqlnotify.topics import local_presence
from gqlnotify.topics.local_member import LocalMember
from gqlnotify.topics.local_presence import LocalPresence
from tests.waiting import wait_until

TOPICS = [f"rooms.{number}" for number in range(20)]


class SlowPresence(MemoryPresence):
    """Takes 0.02 seconds for each topic that a process beats for."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker.publish, broker.head)
        self.beaten = set[str]()

    @override
    async def beat(
        self, registrations: Sequence[Registration], patience: Patience
    ) -> Sequence[bool]:
        for each in registrations:
            await asyncio.sleep(0.02)
            self.beaten.add(each.presence_topic)
        return await super().beat(registrations, patience)


async def test_a_process_beats_for_more_topics_than_one_step_has_time_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_presence, "_STEP_SECONDS", 0.2)
    monkeypatch.setattr(local_presence, "TOPICS_AT_ONCE", 2)
    monkeypatch.setattr(local_presence, "BEAT_SECONDS", 0.1)
    broker = MemoryBroker()
    broker.presence = presence = SlowPresence(broker)
    present = LocalPresence(broker, Settings(), lambda _topic: False)
    for topic in TOPICS:
        present.join(topic, LocalMember("alice"))

    await wait_until(lambda: presence.beaten == {presence_topic(topic) for topic in TOPICS})
    present.reset()
