"""The application that the end-to-end tests serve: numbers on topics, and operations that wait."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import strawberry
from fastapi import FastAPI
from prometheus_client import REGISTRY
from strawberry.exceptions import ConnectionRejectionError
from strawberry.schema.config import StrawberryConfig

from gqlnotify import GraphQLRouter, Topic, TopicManager, current_principal
from gqlnotify.observability import metrics

GATES: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
ENDED: list[str] = []
EXPORTS: Counter[str] = Counter()


def refuse() -> int:
    raise ValueError("on purpose")


@strawberry.type
class Number:
    value: int


@strawberry.type
class Price:
    symbol: str
    value: int
    padding: str


NUMBERS = Topic("numbers.<name>", Number)
PRICES = Topic("prices.<name>", Price, latest_by=lambda price: price.symbol)
ALL_PRICES = Topic("prices.<name>", Price)
topics = TopicManager()


@strawberry.type
class Inner:
    @strawberry.field
    async def late(self) -> str:
        return "late"


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"

    @strawberry.field
    def echo(self, text: str) -> str:
        return text

    @strawberry.field
    def inner(self) -> Inner:
        return Inner()

    @strawberry.field
    def block(self, seconds: float, sign: str) -> bool:
        """Block the whole process; the file `sign` shows when that starts."""
        Path(sign).touch()
        time.sleep(seconds)
        return True

    @strawberry.field
    def fails(self) -> str | None:
        raise ValueError("on purpose")

    @strawberry.field
    def subject(self) -> str:
        return current_principal().subject

    @strawberry.field
    async def cursor(self, name: str) -> str:
        return await topics.cursor(NUMBERS(name=name))

    @strawberry.field
    async def wait(self, gate: str) -> str:
        """Wait until `open` is called for the gate, and note every kind of end."""
        try:
            await GATES[gate].wait()
        finally:
            ENDED.append(gate)
        return gate

    @strawberry.field
    def exports(self, name: str) -> int:
        """Return how often this was exported."""
        return EXPORTS[name]

    @strawberry.field
    def ended(self, gate: str) -> bool:
        return gate in ENDED


@strawberry.type
class Mutation:
    @strawberry.mutation
    def open(self, gate: str) -> bool:
        GATES[gate].set()
        return True

    @strawberry.mutation
    def export(self, name: str, size: int) -> str:
        EXPORTS[name] += 1
        return "x" * size

    @strawberry.mutation
    async def publish_slowly(self, name: str, value: int, seconds: float) -> str:
        ENDED.append(f"begun {name}")
        await asyncio.sleep(seconds)
        return str(await topics.publish(NUMBERS(name=name), Number(value=value)))

    @strawberry.mutation
    async def publish(self, name: str, value: int) -> str:
        return str(await topics.publish(NUMBERS(name=name), Number(value=value)))

    @strawberry.mutation
    async def trade(self, name: str, symbols: int, count: int, size: int) -> bool:
        """Publish prices of alternating symbols, each of about `size` bytes."""
        for value in range(count):
            price = Price(symbol=str(value % symbols), value=value, padding="x" * size)
            await topics.publish(PRICES(name=name), price)
            await asyncio.sleep(0)
        return True


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def numbers(self, name: str, after: str | None = None) -> AsyncIterator[Number]:
        return topics.subscribe(NUMBERS(name=name), after=after)

    @strawberry.subscription
    async def prices(self, name: str, whole: bool, per_viewer: bool) -> AsyncIterator[Price]:
        topic = ALL_PRICES if whole else PRICES
        return topics.subscribe(topic(name=name), per_viewer=per_viewer)

    @strawberry.subscription
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    @strawberry.subscription
    async def ticks(self, gate: str) -> AsyncIterator[int]:
        """One tick, then nothing until the gate opens."""
        try:
            yield 1
            await GATES[gate].wait()
            yield 2
        finally:
            ENDED.append(gate)

    @strawberry.subscription
    async def refused(self) -> AsyncIterator[int]:
        yield refuse()

    @strawberry.subscription
    async def breaks(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("on purpose")

    @strawberry.subscription
    async def flood(self, size: int) -> AsyncIterator[str]:
        """An endless stream of random text, as fast as it is read."""
        while True:
            yield token_hex(size // 2)

    @strawberry.subscription
    async def endless(self) -> AsyncIterator[int]:
        """An endless stream without a pause."""
        while True:
            yield 1


class Router(GraphQLRouter[dict[str, Any], None]):
    """Does to a connection what its `connection_init` asks for."""

    async def on_ws_connect(self, context: dict[str, Any]) -> Any:
        asked = context["connection_params"]
        if "wait" in asked:
            await GATES[asked["wait"]].wait()
        if "reject" in asked:
            raise ConnectionRejectionError
        if "missing" in asked:
            raise KeyError("missing")
        if "ack" in asked:
            return asked["ack"]
        return await super().on_ws_connect(context)


schema = strawberry.Schema(
    Query,
    Mutation,
    Subscription,
    config=StrawberryConfig(enable_experimental_incremental_execution=True),
)
app = FastAPI()
graphql = Router(schema, topics=topics)
app.include_router(graphql, prefix="/graphql")
app.add_route("/metrics", metrics.endpoint)


@app.get("/tasks")
async def tasks() -> list[str]:
    """Return the tasks in the server's event loop."""
    return sorted(str(getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks())


@app.get("/connections")
async def connections() -> int:
    """Return the number of open sockets."""
    return graphql._gqlnotify.connection_limits.connections


@app.get("/refusals")
async def refusals() -> dict[str, float]:
    """Return the number of refusals by reason."""
    return {
        sample.labels["reason"]: sample.value
        for metric in REGISTRY.collect()
        if metric.name == "gqlnotify_refusals"
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
