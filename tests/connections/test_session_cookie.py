"""Anonymous browsers, which are told apart by a cookie."""

import re
from typing import Any

import pytest

from gqlnotify import Settings
from gqlnotify.server.websocket import WebSocketProtocol
from tests.applications import application
from tests.e2e.raw import Socket
from tests.message_app import MessageApp
from tests.servers import running
from tests.stock_client import StockClient

COOKIE = re.compile(r"gqlnotify_session=([A-Za-z0-9_-]{22}); HttpOnly; Path=/; SameSite=Lax")


def settings(**options: Any) -> Settings:
    return Settings(broker_url="memory://", **options)


def cookie_of(socket: Socket) -> dict[str, str]:
    response = socket.connection.response
    assert response is not None
    match = COOKIE.fullmatch(response.headers["set-cookie"])
    assert match is not None, response.headers
    return {"Cookie": f"other=1; gqlnotify_session={match[1]}"}


@pytest.mark.processes
@pytest.mark.parametrize("ws", [WebSocketProtocol, "auto"], ids=["direct", "portable"])
async def test_a_browser_resumes_by_its_cookie_and_no_other_one_does(
    message_app: MessageApp, ws: Any
) -> None:
    client = StockClient()
    router = message_app.router(settings=settings(anonymous_sessions=True))
    async with running(application(router), ws=ws) as origin:
        async with client.connected(origin) as socket:
            await client.armed()
            cookie = cookie_of(socket)
        await message_app.say("missed")
        for other in ({}, {"Cookie": "gqlnotify_session=short"}):
            async with client.connected(origin, additional_headers=other) as socket:
                await client.armed()
                assert cookie_of(socket) != cookie
                await message_app.say("live")
                await client.gets("live")
        async with client.connected(origin, additional_headers=cookie) as socket:
            assert socket.connection.response is not None
            assert "set-cookie" not in socket.connection.response.headers
            await client.gets("missed", "live", "live")


@pytest.mark.processes
async def test_without_the_setting_there_is_no_cookie_and_nothing_is_resumed(
    message_app: MessageApp,
) -> None:
    client = StockClient()
    async with (
        running(application(message_app.router(settings=settings()))) as origin,
        client.connected(origin) as socket,
    ):
        assert socket.connection.response is not None
        assert "set-cookie" not in socket.connection.response.headers
        await client.is_heard()
    assert client.pings == []


def test_settings_that_can_t_work_are_refused(message_app: MessageApp) -> None:
    with pytest.raises(ValueError, match="GQLNOTIFY_AUTO_RESUME needs to know the clients"):
        message_app.router(settings=settings(auto_resume=True))
    with pytest.raises(ValueError, match="GQLNOTIFY_ANONYMOUS_SESSIONS has no effect"):
        message_app.router(settings=settings(jwt_secret="s" * 32, anonymous_sessions=True))
