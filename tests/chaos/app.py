"""The task service, in a process that can die at the worst moment, as after `kill -9`."""

import os
import signal
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from gqlnotify import Cursor, TopicManager
from gqlnotify.outbox import Outbox
from schema.app import create_app

DIE_COMMITTED = signal.SIGUSR1
"""Die when the next change is committed, before its event is published."""

DIE_PUBLISHED = signal.SIGUSR2
"""Die when the next event of the outbox is published, before its row is deleted."""


def build() -> FastAPI:
    signal.signal(DIE_COMMITTED, _obey(_die_committed))
    signal.signal(DIE_PUBLISHED, _obey(_die_published))
    return create_app()


def _obey(order: Callable[[], None]) -> Callable[..., None]:
    return lambda *_: order()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_committed() -> None:
    def wake(self: Outbox) -> None:
        _die()

    Outbox.wake = wake  # type: ignore[method-assign]


def _die_published() -> None:
    original = TopicManager.publish_bytes

    async def publish_bytes(self: TopicManager, *args: Any, **kwargs: Any) -> Cursor:
        cursor = await original(self, *args, **kwargs)
        _die()
        return cursor

    TopicManager.publish_bytes = publish_bytes  # type: ignore[method-assign]
