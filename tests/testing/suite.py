"""Tests as a project outside of this repository has them; `test_plugin.py` runs them.

Half of them run with pytest-asyncio in its strict mode, half with anyio's plugin. The tests named
`..._fails` have a mistake on purpose.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import strawberry
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Topic, TopicManager
from gqlnotify.testing import Client, ControlledBroker, Published, Tokens, connect

NUMBERS = Topic("numbers", int)
topics = TopicManager()
pumps: list[asyncio.Task[None]] = []


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def numbers(self) -> AsyncIterator[int]:
        return topics.subscribe(NUMBERS)

    @strawberry.subscription
    async def leaking(self) -> AsyncIterator[int]:
        queue: asyncio.Queue[int] = asyncio.Queue()
        pumps.append(asyncio.create_task(_pump(queue)))
        while True:
            yield await queue.get()


async def _pump(queue: "asyncio.Queue[int]") -> None:
    while True:
        await asyncio.sleep(3600)
        queue.put_nowait(1)


app = FastAPI()
app.include_router(
    GraphQLRouter[None, None](strawberry.Schema(Query, None, Subscription), topics=topics),
    prefix="/graphql",
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(tokens: Tokens) -> AsyncIterator[Client]:
    async with connect(app, token=tokens("ann", subscribe="*")) as client:
        yield client


@pytest.mark.anyio
@pytest.mark.parametrize("_round", range(2))
async def test_with_anyio(
    client: Client, published: Published, broker: ControlledBroker, _round: int
) -> None:
    numbers = await client.subscribe("subscription { numbers }")
    await topics.publish(NUMBERS, 1)
    await broker.restart()
    assert (await anext(numbers)).data == {"numbers": 1}
    assert published(NUMBERS) == [1]


@pytest.mark.asyncio
async def test_with_pytest_asyncio(tokens: Tokens, published: Published) -> None:
    async with connect(app, token=tokens("ann", subscribe="*")) as client:
        numbers = await client.subscribe("subscription { numbers }")
        await topics.publish(NUMBERS, 1)
        assert (await anext(numbers)).data == {"numbers": 1}
    assert published(NUMBERS) == [1]


@pytest.mark.asyncio
async def test_with_a_task_of_the_application_left_fails(tokens: Tokens) -> None:
    async with connect(app, token=tokens("ann", subscribe="*")) as client:
        await client.subscribe("subscription { leaking }")


@pytest.mark.anyio
async def test_with_a_task_of_its_own_left_fails(client: Client) -> None:
    async def read_and_wait() -> None:
        async for _ in client.subscribe("subscription { numbers }"):
            pass
        await asyncio.Event().wait()

    pumps.append(asyncio.create_task(read_and_wait()))
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_its_own_error_is_not_hidden_fails(tokens: Tokens) -> None:
    async with connect(app, token=tokens("ann", subscribe="*")) as client:
        await client.subscribe("subscription { leaking }")
        assert (await client.execute("{ hello }")).data == {"hello": "moon"}
