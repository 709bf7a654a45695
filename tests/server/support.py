"""A peer that does not read."""

import asyncio

from tests.e2e.frames import FrameSocket
from tests.e2e.service import Service, ready
from tests.waiting import wait_until

BIG = 100 * 1024
DEFLATE = "permessage-deflate; client_max_window_bits"


async def stall(service: Service, socket: FrameSocket) -> None:
    await ready(socket, "a", "1")
    await service.publish("a", *("x" * BIG for _ in range(100)))
    await wait_until(lambda: not service.taps.only.writable.is_set())


async def let_tasks_run() -> None:
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)
