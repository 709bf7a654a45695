"""What the Python servers have in common. It needs nothing but the standard library."""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")

TEXT = os.environ["BENCH_TEXT"]
SECRET = os.environ.get("BENCH_SECRET", "")

_numbers = count(1)


def fields() -> dict[str, Any]:
    """Return what a new event consists of."""
    sent_at = time.monotonic_ns() // 1000 / 1000
    return {"seq": next(_numbers), "sent_at": sent_at, "kind": "created", "text": TEXT}


class Rooms(Generic[T]):
    """Publish and subscribe as an application does it: a queue for each subscriber."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, set[asyncio.Queue[T]]] = defaultdict(set)

    def publish(self, room: str, event: T) -> None:
        """Give `event` to everybody in the room."""
        for queue in self._queues[room]:
            queue.put_nowait(event)

    async def listen(self, room: str) -> AsyncIterator[T]:
        """Yield what is published in the room."""
        queue: asyncio.Queue[T] = asyncio.Queue()
        self._queues[room].add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues[room].discard(queue)
