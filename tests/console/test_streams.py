"""A stream over HTTP is shown and ended like a socket."""

import httpx
import pytest
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from gqlnotify import TopicManager
from gqlnotify.connections import report
from gqlnotify.console.asking import Console
from gqlnotify.topics.revocation import Revocations
from tests.console.support import SETTINGS, application, token
from tests.servers import NO_TLS, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


async def test_a_stream_can_be_found_and_ended() -> None:
    topics = TopicManager(settings=SETTINGS)
    protocols = (GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL)
    app = application(topics, subscription_protocols=protocols)
    console = Console(topics, Revocations(topics, SETTINGS))
    headers = {
        "accept": "text/event-stream",
        "authorization": f"Bearer {token('alice', subscribe='numbers')}",
    }

    async def found() -> list[report.Facts]:
        asked = await console.ask(report.CONNECTIONS, search="alice")
        return [row for _, row in asked.rows]

    async def has_ended() -> bool:
        return not await found()

    async with running(app) as address, httpx.AsyncClient(verify=NO_TLS) as client:
        stream = client.stream(
            "POST",
            f"http://{address}/graphql",
            json={"query": "subscription { numbers }"},
            headers=headers,
        )
        async with stream as response:
            await wait_until(found)
            [row] = await found()
            await console.ask(report.DISCONNECT, connection=row["id"])

            with pytest.raises(httpx.TransportError):
                await response.aread()
        await wait_until(has_ended)

    assert row["transport"] == "text/event-stream"
    assert row["address"].startswith("127.0.0.1:")
