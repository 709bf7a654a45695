"""`gqlnotify.client` with the real client gql and real servers."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from gql import Client, GraphQLRequest
from gql.transport.exceptions import TransportError, TransportQueryError
from gql.transport.websockets import WebsocketsTransport
from graphql import ExecutionResult

from gqlnotify.client import _Position, resume
from tests.e2e.conftest import SECRET
from tests.e2e.proxy import Proxy, port_of
from tests.e2e.tokens import token
from tests.numbers_app import UNCHECKED, NumbersApp
from tests.servers import patience, running

pytestmark = pytest.mark.processes

SUBSCRIPTION = GraphQLRequest("subscription { numbers { value checked } }")


def client(origin: str, **options: Any) -> Client:
    url = f"ws://{origin}/graphql"
    return Client(transport=WebsocketsTransport(url, connect_args={"proxy": None}, **options))


def resuming(connect: Callable[[], Client], **options: Any) -> AsyncGenerator[ExecutionResult]:
    return resume(connect, SUBSCRIPTION, shortest_wait=0.01, longest_wait=0.05, **options)


async def take(
    results: AsyncGenerator[ExecutionResult], *, until: int, field: str = "value"
) -> list[Any]:
    taken = []
    async with patience(), aclosing(results):
        async for result in results:
            assert result.data is not None
            number = result.data["numbers"]
            taken.append(number[field])
            if number["value"] == until:
                break
    return taken


async def test_each_event_arrives_once_on_connections_that_are_cut() -> None:
    app = NumbersApp()
    async with running(app.asgi) as origin:
        proxy = Proxy(port_of(origin))
        async with proxy.listening() as port:
            [after] = await app.publish(0)
            results = resuming(lambda: client(f"127.0.0.1:{port}"), after=after)
            reading = asyncio.create_task(take(results, until=200))
            for value in range(1, 200):
                await app.publish(value)
                await asyncio.sleep(random.random() * 0.01)
                if random.random() < 0.1:
                    proxy.cut()
            await app.publish(200)
            assert await reading == list(range(1, 201))


async def test_each_event_arrives_once_over_a_restart(redis_url: str) -> None:
    old, new = NumbersApp(redis_url), NumbersApp(redis_url)
    async with AsyncExitStack() as stack:
        async with running(old.asgi) as origin:
            proxy = Proxy(port_of(origin))
            port = await stack.enter_async_context(proxy.listening())
            [after] = await old.publish(0)
            results = resuming(lambda: client(f"127.0.0.1:{port}"), after=after)
            await old.publish(1)
            first = (await anext(results)).data
        async with running(new.asgi) as origin:
            await new.publish(2, 3)
            proxy.port = port_of(origin)
            assert await take(results, until=3) == [2, 3]
    assert first == {"numbers": {"value": 1, "checked": 1}}


async def test_after_an_expired_cursor_it_continues_after_the_one_that_was_fetched() -> None:
    app = NumbersApp()
    async with running(app.asgi) as origin:
        _, second, _ = await app.publish(1, 2, 3)

        async def fetch_again() -> str:
            return second

        results = resuming(lambda: client(origin), after="1-1", on_expired=fetch_again)
        assert await take(results, until=3) == [3]


async def test_without_a_way_to_fetch_again_an_expired_cursor_is_an_error() -> None:
    app = NumbersApp()
    async with running(app.asgi) as origin:
        with pytest.raises(TransportQueryError) as refused:
            await take(resuming(lambda: client(origin), after="1-1"), until=1)
    assert refused.value.errors is not None
    assert refused.value.errors[0]["extensions"]["code"] == "CURSOR_EXPIRED"


def test_known_results_are_those_of_the_same_history_up_to_the_last_one() -> None:
    position = _Position("5-7")

    def take(cursor: str) -> bool:
        return position.take(ExecutionResult(data={}, extensions={"cursor": cursor}))

    taken = [take(cursor) for cursor in ("5-6", "5-7", "5-8", "5-8", "6-1", "6-2")]
    assert taken == [False, False, True, False, True, True]


async def test_a_result_with_errors_is_a_result() -> None:
    app = NumbersApp()
    async with running(app.asgi) as origin:
        after, *_ = await app.publish(0, 1, UNCHECKED, 2)
        results = resuming(lambda: client(origin), after=after)
        assert await take(results, until=2, field="checked") == [1, None, 2]


async def test_each_connection_gets_a_fresh_token() -> None:
    app = NumbersApp(jwt_secret=SECRET)
    tokens = [token(expires_in=-60), token()]
    async with running(app.asgi) as origin:
        after, _ = await app.publish(0, 1)
        results = resuming(
            lambda: client(origin, init_payload={"token": tokens.pop(0)}), after=after
        )
        assert await take(results, until=1) == [1]
    assert tokens == []


async def test_a_token_that_is_invalid_ends_the_subscription() -> None:
    app = NumbersApp(jwt_secret=SECRET)
    async with running(app.asgi) as origin:
        results = resuming(lambda: client(origin, init_payload={"token": "nonsense"}))
        with pytest.raises(TransportError) as refused:
            await take(results, until=1)
    assert "4401" in str(refused.value.__cause__)
