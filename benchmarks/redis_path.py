"""What the way through Redis costs: `python -m benchmarks.redis_path redis://127.0.0.1:6379/15`.

It measures against that server, alone in it if the figures of Redis are to mean something, and
prints a table. The events have a payload of 230 bytes. Its topics end by themselves.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from gqlnotify import Publisher, Settings, Topic, TopicManager
from gqlnotify.brokers.redis import RedisBroker

PAYLOAD = "x" * 228
DELAYS = 3000
INTAKE = 50_000
MISSED = 10_000
IDLE_TOPICS = 5000
LONG: dict[str, Any] = {"history_length": 100_000}


def topic() -> Topic[str]:
    """Return a topic that nobody has used before."""
    return Topic(f"bench.{uuid4().hex}", str)


async def delays(manager: TopicManager) -> Sequence[float]:
    """Return the milliseconds from the call of publish to the subscriber, one event at a time."""
    of, found = topic(), []
    stream = manager.subscribe(of)
    await stream.start()
    for _ in range(DELAYS):
        began = time.perf_counter()
        publishing = asyncio.ensure_future(manager.publish(of, PAYLOAD))
        await anext(stream)
        found.append((time.perf_counter() - began) * 1000)
        await publishing
    await stream.aclose()
    return found[DELAYS // 10 :]


def publish_elsewhere(url: str, name: str, count: int) -> "subprocess.Popen[bytes]":
    """Publish `count` events as fast as a process of its own can."""
    code = (
        "import sys; from gqlnotify import Publisher, Settings\n"
        "name, count = sys.argv[2], int(sys.argv[3])\n"
        f"with Publisher(sys.argv[1], settings=Settings(**{LONG!r})) as publisher:\n"
        f"    publisher.publish_many_sync((name, {PAYLOAD!r}) for _ in range(count))\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, url, name, str(count)])


async def intake(url: str, client: "Redis") -> dict[str, float]:
    """Return what it takes to bring many events from one process to another."""
    of, seen, done = topic(), 0, asyncio.Event()

    def deliver(_event: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == INTAKE:
            done.set()

    broker = RedisBroker(url)
    await broker.start(deliver, lambda _topic: None)
    await broker.subscribe(of.name)
    memory, cpu = await used(client, "memory", "used_memory"), await redis_cpu(client)
    began, own = time.perf_counter(), time.process_time()
    publishing = publish_elsewhere(url, of.name, INTAKE)
    await done.wait()
    took, own = time.perf_counter() - began, time.process_time() - own
    publishing.wait()
    cpu = await redis_cpu(client) - cpu
    memory = await used(client, "memory", "used_memory") - memory
    await broker.close()
    return {
        "per_second": INTAKE / took,
        "own": own / INTAKE * 1e6,
        "redis": cpu / INTAKE * 1e6,
        "memory": memory / INTAKE,
    }


async def catch_up(manager: TopicManager, url: str) -> float:
    """Return the seconds until a subscriber has the events that it missed."""
    of = topic()
    after = await manager.cursor(of)
    await asyncio.to_thread(publish_elsewhere(url, of.name, MISSED).wait)
    began = time.perf_counter()
    stream = manager.subscribe(of, after=after)
    for _ in range(MISSED):
        await anext(stream)
    await stream.aclose()
    return time.perf_counter() - began


async def idle_topic(url: str, client: "Redis") -> float:
    """Return the bytes that a topic with one event takes."""
    before = await used(client, "memory", "used_memory")
    async with Publisher(url) as publisher:
        await publisher.publish_many((topic(), PAYLOAD) for _ in range(IDLE_TOPICS))
    return (await used(client, "memory", "used_memory") - before) / IDLE_TOPICS


async def used(client: "Redis", section: str, field: str) -> float:
    """Return a figure that Redis knows of itself."""
    return float((await client.info(section))[field])


async def redis_cpu(client: "Redis") -> float:
    """Return the seconds of processor time that Redis has used."""
    return await used(client, "cpu", "used_cpu_user") + await used(client, "cpu", "used_cpu_sys")


def row(what: str, *figures: str) -> None:
    """Print a line of the table."""
    print(f"| {what} | {' | '.join(figures)} |")


async def main(url: str) -> None:
    """Measure, and print the table."""
    through = TopicManager(settings=Settings(broker_url=url, **LONG))
    within = TopicManager(settings=Settings(broker_url="memory://"))
    client = Redis.from_url(url, protocol=3)
    row("what", "Redis", "in-process")
    row("---", "---", "---")
    found = [await delays(manager) for manager in (through, within)]
    row("publish to delivery, p50", *(f"{statistics.median(each):.3f} ms" for each in found))
    row(
        "publish to delivery, p99",
        *(f"{statistics.quantiles(each, n=100)[98]:.3f} ms" for each in found),
    )
    taken = await intake(url, client)
    row("events a second into one process", f"{taken['per_second']:,.0f}", "")
    row("CPU of that process per event", f"{taken['own']:.1f} us", "")
    row("CPU of Redis per event", f"{taken['redis']:.1f} us", "")
    row("memory of Redis per event", f"{taken['memory']:.0f} bytes", "")
    row("memory of Redis per idle topic", f"{await idle_topic(url, client):.0f} bytes", "")
    row(f"catching up {MISSED:,} missed events", f"{await catch_up(through, url):.2f} s", "")
    await through.close()
    await within.close()
    await client.aclose()


if __name__ == "__main__":
    os.environ.setdefault("GQLNOTIFY_TOPIC_LINGER", "0")
    asyncio.run(main(sys.argv[1]))
