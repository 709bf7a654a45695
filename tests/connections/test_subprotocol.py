"""The answer to a client that offers no protocol of the server."""

import logging

import pytest

from gqlnotify import GraphQLRouter
from tests.applications import schema_of, websocket

pytestmark = pytest.mark.processes

MODERN = "graphql-transport-ws"
LEGACY = "graphql-ws"


@pytest.mark.parametrize(
    ("served", "offered", "reason"),
    [
        ([MODERN], "imaginary", "Subprotocol not acceptable: offer graphql-transport-ws"),
        ([LEGACY], MODERN, "Subprotocol not acceptable: offer graphql-ws"),
        (
            [MODERN, LEGACY],
            "imaginary",
            "Subprotocol not acceptable: offer graphql-transport-ws or graphql-ws",
        ),
        ([], MODERN, "Subprotocol not acceptable: this server has turned WebSocket off"),
    ],
)
async def test_a_refusal_names_what_the_router_serves(
    served: list[str], offered: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    router = GraphQLRouter(schema_of(), subscription_protocols=served)
    async with websocket(router, subprotocols=[offered]) as socket:
        close = await socket.closed()
    assert (close.code, close.reason) == (4406, reason)
    [message] = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert f"this server speaks {' and '.join(served) or 'none'}." in message


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        ([MODERN], "Legacy subprotocol graphql-ws: this server speaks graphql-transport-ws."),
        ([], "Subprotocol not acceptable: this server has turned WebSocket off"),
    ],
)
async def test_a_legacy_client_gets_the_reason_in_its_own_protocol(
    served: list[str], reason: str
) -> None:
    router = GraphQLRouter(schema_of(), subscription_protocols=served)
    async with websocket(router, subprotocols=[LEGACY]) as socket:
        message = await socket.receive()
        assert message["type"] == "connection_error"
        assert message["payload"]["message"].startswith(reason)
        close = await socket.closed()
    assert close.code == 4406
    assert close.reason == message["payload"]["message"]
