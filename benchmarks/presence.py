"""What presence costs: `python -m benchmarks.presence redis://127.0.0.1:6379/15`.

It measures against that server, alone in it if the figures of Redis are to mean something, and
prints a table. Its topics end by themselves.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import strawberry
from fastapi import FastAPI
from redis.asyncio import Redis

from benchmarks.redis_path import redis_cpu, row, used
from gqlnotify import GraphQLRouter, Joined, Present, Settings, Topic, TopicManager
from gqlnotify.topics.local_member import LocalMember
from gqlnotify.topics.local_presence import BEAT_SECONDS, Membership

MEMBERS = 10_000
JOINS_A_SECOND = 1000
SECONDS = 10
# Joins of one moment: they come with the turns of an event loop, not one by one.
TURN_SECONDS = 0.01
SUBSCRIBERS = 1000
EVENTS = 100
ROUNDS = 12

TOPIC = Topic(f"bench.{uuid4().hex}", str, presence=True)
ON, OFF = Topic("bench.on", str, presence=True), Topic("bench.off", str)


async def until_count(manager: TopicManager, count: int) -> Present:
    """Return who is present once there are `count`."""
    while (present := await manager.present(TOPIC)).count != count:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return present


def join(manager: TopicManager, count: int) -> list[Membership]:
    """Add new subjects."""
    members = [LocalMember(uuid4().hex) for _ in range(count)]
    return [manager.local_presence.join(TOPIC.name, member) for member in members]


async def fill(manager: TopicManager, client: "Redis") -> list[Membership]:
    """Have `MEMBERS` members, and print what they take."""
    memory = await used(client, "memory", "used_memory")
    began, own, cpu = time.perf_counter(), time.process_time(), await redis_cpu(client)
    members = join(manager, MEMBERS)
    await until_count(manager, MEMBERS)
    took = time.perf_counter() - began
    own, cpu = time.process_time() - own, await redis_cpu(client) - cpu
    memory = await used(client, "memory", "used_memory") - memory
    row(f"{MEMBERS:,} join at once", f"{took:.2f} s")
    row("CPU of their process per join", f"{own / MEMBERS * 1e6:.1f} us")
    row("CPU of Redis per join", f"{cpu / MEMBERS * 1e6:.1f} us")
    row("memory of Redis per member, with its event", f"{memory / MEMBERS:.0f} bytes")
    return members


async def list_members(manager: TopicManager) -> None:
    """Print how long the list takes."""
    took = []
    for _ in range(50):
        began = time.perf_counter()
        await manager.present(TOPIC)
        took.append((time.perf_counter() - began) * 1000)
    row(f"list of the first 1,000 of {MEMBERS:,}", f"{statistics.median(took):.1f} ms")


async def idle(client: "Redis") -> None:
    """Print what members cost that only stay."""
    own, cpu = time.process_time(), await redis_cpu(client)
    await asyncio.sleep(5 * BEAT_SECONDS)
    own, cpu = time.process_time() - own, await redis_cpu(client) - cpu
    seconds = 5 * BEAT_SECONDS
    row(f"CPU of the process, {MEMBERS:,} members stay", f"{own / seconds:.2%}")
    row(f"CPU of Redis, {MEMBERS:,} members stay", f"{cpu / seconds:.2%}")


async def come_and_go(manager: TopicManager, client: "Redis", members: list[Membership]) -> None:
    """Have subjects join, and as many leave, every second, and print what that costs."""
    seen = 0

    async def follow() -> None:
        nonlocal seen
        async for each in manager.presence(TOPIC):
            seen += isinstance(each, Joined)

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0.5)
    own, cpu, began = time.process_time(), await redis_cpu(client), time.perf_counter()
    a_turn = round(JOINS_A_SECOND * TURN_SECONDS)
    for turn in range(round(SECONDS / TURN_SECONDS)):
        members += join(manager, a_turn)
        for membership in members[:a_turn]:
            membership.leave()
        del members[:a_turn]
        await asyncio.sleep(began + (turn + 1) * TURN_SECONDS - time.perf_counter())
    took = time.perf_counter() - began
    own, cpu = time.process_time() - own, await redis_cpu(client) - cpu
    await asyncio.sleep(1)
    following.cancel()
    rate = JOINS_A_SECOND * SECONDS / took
    row(f"{rate:,.0f} join and leave a second: CPU of their process", f"{own / took:.1%}")
    row("CPU of Redis meanwhile", f"{cpu / took:.1%}")
    row(
        "joins that a follower has seen a second later", f"{seen:,} of {JOINS_A_SECOND * SECONDS:,}"
    )


async def deliveries() -> None:
    """Print what a delivery costs with presence, compared with one without."""
    topics = TopicManager(settings=Settings(broker_url="memory://", introspection=True))

    @strawberry.type
    class Query:
        ok: bool = True

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def on(self) -> AsyncIterator[str]:
            return topics.subscribe(ON)

        @strawberry.subscription
        async def off(self) -> AsyncIterator[str]:
            return topics.subscribe(OFF)

    app = FastAPI()
    schema = strawberry.Schema(Query, subscription=Subscription)
    settings = Settings(broker_url="memory://", ping_interval=3600)
    app.include_router(GraphQLRouter(schema, topics=topics, settings=settings), prefix="/graphql")
    sinks = {topic: [Sink(app, field) for _ in range(SUBSCRIBERS)] for topic, field in FIELDS}
    found: dict[Topic[str], list[float]] = {ON: [], OFF: []}
    for topic in found:
        while min(sink.got for sink in sinks[topic]) < 1:
            await topics.publish(topic, "first")
            await asyncio.sleep(0.2)
    assert (await topics.present(ON)).count == SUBSCRIBERS
    for _ in range(ROUNDS):
        for topic, seconds in found.items():
            seconds.append(await fan_out(topics, topic, sinks[topic]))
    ratios = [on / off for on, off in zip(found[ON], found[OFF], strict=True)]
    row("CPU of a delivery, with presence to without", f"{statistics.median(ratios):.2f}")
    for sink in (*sinks[ON], *sinks[OFF]):
        sink.task.cancel()


FIELDS = ((ON, "on"), (OFF, "off"))


class Sink:
    """A client that only counts, on an ASGI connection without a server."""

    def __init__(self, app: FastAPI, field: str) -> None:
        self.got = 0
        payload = {"query": f"subscription {{ {field} }}"}
        messages: Sequence[dict[str, Any]] = (
            {"type": "connection_init"},
            {"type": "subscribe", "id": "1", "payload": payload},
        )
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        for message in messages:
            self._inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})
        scope = {
            "type": "websocket",
            "path": "/graphql",
            "raw_path": b"/graphql",
            "root_path": "",
            "scheme": "ws",
            "query_string": b"",
            "headers": [],
            "subprotocols": ["graphql-transport-ws"],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
        }
        self.task = asyncio.ensure_future(app(scope, self._inbox.get, self._send))

    async def _send(self, message: Any) -> None:
        self.got += '"next"' in (message.get("text") or "")


async def fan_out(topics: TopicManager, topic: Topic[str], sinks: Sequence[Sink]) -> float:
    """Return the CPU seconds until all have got some events."""
    goal = [sink.got + EVENTS for sink in sinks]
    own = time.process_time()
    for number in range(EVENTS):
        await topics.publish(topic, str(number))
        await asyncio.sleep(0)
    while any(sink.got < each for sink, each in zip(sinks, goal, strict=True)):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return time.process_time() - own


async def main(url: str) -> None:
    """Measure, and print the table."""
    settings = Settings(broker_url=url, presence_grace=1, history_length=JOINS_A_SECOND * SECONDS)
    manager = TopicManager(settings=settings)
    await manager.start()
    client = Redis.from_url(url, protocol=3)
    row("what", "figure")
    row("---", "---")
    members = await fill(manager, client)
    await list_members(manager)
    await idle(client)
    await come_and_go(manager, client, members)
    await manager.close()
    await client.aclose()
    await deliveries()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
