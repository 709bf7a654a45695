"""A process that numbers its events, and publishes each until it is confirmed.

It prints a line of JSON for each event and for each refusal, and obeys its stdin.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from random import Random
from typing import Any

from gqlnotify import Publisher
from gqlnotify.errors import BrokerUnavailable
from schema.commands import notices
from schema.types import Notice

NOTICES = notices("chaos")
_PAUSE = 0.03
_LARGEST_BATCH = 3
_RETRY_SECONDS = 0.05
_QUEUED_MEANWHILE = 20


async def main(seed: int) -> None:
    rng = Random(seed)
    orders = _Orders()
    first = 0
    async with Publisher() as publisher, asyncio.TaskGroup() as tasks:
        tasks.create_task(orders.obey())
        while not orders.stopping:
            await orders.going.wait()
            first = await _publish(publisher, first, rng)
            await asyncio.sleep(rng.uniform(0, 2 * _PAUSE))


class _Orders:
    """The commands on stdin: "hold" and "go", each on a line; its end means stop."""

    def __init__(self) -> None:
        self.stopping = False
        self.going = asyncio.Event()
        self.going.set()

    async def obey(self) -> None:
        loop = asyncio.get_running_loop()
        while order := await loop.run_in_executor(None, sys.stdin.readline):
            if json.loads(order) == "hold":
                self.going.clear()
            else:
                self.going.set()
        self.stopping = True
        self.going.set()


async def _publish(publisher: Publisher, first: int, rng: Random) -> int:
    """Publish some events from `first` on, and return the next number."""
    end = first + rng.randint(1, _LARGEST_BATCH)
    while True:
        entries = [(NOTICES, _notice(number), str(number)) for number in range(first, end)]
        try:
            if rng.random() < 0.5:
                cursors = await publisher.publish_many(entries)
            else:
                cursors = publisher.publish_many_sync(entries)
        except BrokerUnavailable as error:
            # They may have been published: their ids prevent repeats.
            _print(refused=str(error))
            end += rng.randint(0, _QUEUED_MEANWHILE)
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        for number, cursor in enumerate(cursors, first):
            _print(number=number, cursor=str(cursor))
        return end


def _notice(number: int) -> Notice:
    return Notice(number, "publisher", datetime.now(UTC))


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
