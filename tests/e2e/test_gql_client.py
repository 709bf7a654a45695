"""The PyPI client gql against a real server."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gql import Client, GraphQLRequest, gql
from gql.transport.exceptions import TransportError, TransportQueryError
from gql.transport.websockets import WebsocketsTransport
from graphql import ExecutionResult
from websockets.exceptions import ConnectionClosedError

from tests.e2e.tokens import token
from tests.servers import Server, patience

NUMBERS = """
    subscription ($name: String!, $after: String) { numbers(name: $name, after: $after) { value } }
"""


def client(server: Server, **options: Any) -> Client:
    transport = WebsocketsTransport(f"{server.ws}/graphql", connect_args={"proxy": None}, **options)
    return Client(transport=transport)


def numbers(name: str, after: str | None = None) -> GraphQLRequest:
    return GraphQLRequest(NUMBERS, variable_values={"name": name, "after": after})


def publishing(name: str, value: int) -> GraphQLRequest:
    return gql(f'mutation {{ publish(name: "{name}", value: {value}) }}')


async def results(session: Any, request: GraphQLRequest) -> AsyncIterator[ExecutionResult]:
    async for result in session.subscribe(request, get_execution_result=True):
        yield result


async def test_gql_runs_queries_and_mutations(server: Server) -> None:
    async with patience(), client(server) as session:
        assert await session.execute(gql("{ hello }")) == {"hello": "world"}
        assert await session.execute(gql('mutation { open(gate: "gql") }')) == {"open": True}


async def test_gql_subscribes_to_an_ordinary_generator(server: Server) -> None:
    async with patience(), client(server) as session:
        stream = session.subscribe(gql("subscription { count(to: 3) }"))
        assert [result["count"] async for result in stream] == [1, 2, 3]


async def test_gql_reconnects_after_its_last_cursor_and_misses_nothing(server: Server) -> None:
    async with patience(), client(server) as publisher:
        after = (await publisher.execute(gql('{ cursor(name: "gql") }')))["cursor"]
        seen: list[int] = []
        for connection in range(5):
            for value in range(1, 11):
                await publisher.execute(publishing("gql", connection * 10 + value))
            async with client(server) as session:
                async for result in results(session, numbers("gql", after)):
                    assert result.data is not None
                    assert result.extensions is not None
                    seen.append(result.data["numbers"]["value"])
                    after = result.extensions["cursor"]
                    # Leave in the middle of the waiting events.
                    if len(seen) % 7 == 0 or seen[-1] == (connection + 1) * 10:
                        break
        async with client(server) as session:
            async for result in results(session, numbers("gql", after)):
                assert result.data is not None
                seen.append(result.data["numbers"]["value"])
                if seen[-1] == 50:
                    break
    assert seen == list(range(1, 51))


async def test_a_live_subscription_gets_what_is_published_next_to_it(server: Server) -> None:
    async with patience(), client(server) as session:
        after = (await session.execute(gql('{ cursor(name: "gql-live") }')))["cursor"]
        seen = []
        await session.execute(publishing("gql-live", 1))
        async for result in session.subscribe(numbers("gql-live", after)):
            seen.append(result["numbers"]["value"])
            if len(seen) == 20:
                break
            await session.execute(publishing("gql-live", len(seen) + 1))
    assert seen == list(range(1, 21))


async def test_an_invalid_operation_is_an_error_and_not_the_end(server: Server) -> None:
    async with patience(), client(server) as session:
        with pytest.raises(TransportQueryError, match="unknown"):
            await session.execute(gql("{ unknown }"))
        assert await session.execute(gql("{ hello }")) == {"hello": "world"}


async def test_a_cursor_that_expired_is_an_error(server: Server) -> None:
    async with patience(), client(server) as session:
        with pytest.raises(TransportQueryError) as refused:
            await anext(results(session, numbers("gql", "1-1")))
    assert refused.value.errors is not None
    assert refused.value.errors[0]["extensions"]["code"] == "CURSOR_EXPIRED"


async def test_gql_sends_its_token_in_the_init_payload(locked: Server) -> None:
    payload = {"Authorization": f"Bearer {token('carol')}"}
    async with patience(), client(locked, init_payload=payload) as session:
        assert await session.execute(gql("{ subject }")) == {"subject": "carol"}


async def test_gql_sends_its_token_in_the_headers(locked: Server) -> None:
    headers = {"Authorization": f"Bearer {token('carol')}"}
    async with patience(), client(locked, headers=headers) as session:
        assert await session.execute(gql("{ subject }")) == {"subject": "carol"}


@pytest.mark.parametrize("payload", [{}, {"token": "nonsense"}])
async def test_gql_is_refused_without_a_token(locked: Server, payload: dict[str, str]) -> None:
    with pytest.raises((TransportError, ConnectionClosedError)) as refused:
        async with patience(), client(locked, init_payload=payload) as session:
            await session.execute(gql("{ subject }"))
    assert "4401" in f"{refused.value} {refused.value.__cause__}"


async def test_gql_is_refused_a_topic_without_the_right(locked: Server) -> None:
    payload = {"token": token(subscribe=["elsewhere"])}
    async with patience(), client(locked, init_payload=payload) as session:
        with pytest.raises(TransportQueryError) as refused:
            await anext(results(session, numbers("gql")))
    assert refused.value.errors is not None
    assert refused.value.errors[0]["extensions"]["code"] == "FORBIDDEN"
