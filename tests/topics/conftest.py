"""Fixtures for the tests of topics."""

from collections.abc import AsyncIterator

import pytest

from gqlnotify import TopicManager
from gqlnotify.brokers import MemoryBroker
from gqlnotify.topics import live_topic
from gqlnotify.topics import manager as manager_module


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers and pages that fill up soon, and retries that follow each other at once."""
    monkeypatch.setattr(live_topic, "BUFFER_SIZE", 8)
    monkeypatch.setattr(live_topic, "PAGE_SIZE", 5)
    monkeypatch.setattr(live_topic, "RETRY_SECONDS", (0.001, 0.002))
    monkeypatch.setattr(manager_module, "RETRY_SECONDS", (0.001, 0.002))


@pytest.fixture
async def manager() -> AsyncIterator[TopicManager]:
    manager = TopicManager(MemoryBroker())
    yield manager
    await manager.close()
