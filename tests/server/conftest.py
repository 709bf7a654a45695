"""A service of gqlnotify under each protocol class."""

from collections.abc import AsyncIterator

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.service import Service, served


@pytest.fixture
async def direct() -> AsyncIterator[Service]:
    async with served(WebSocketProtocol) as service:
        yield service


@pytest.fixture(params=[WebSocketProtocol, WebSocketsSansIOProtocol], ids=["direct", "portable"])
def base(request: pytest.FixtureRequest) -> type[WebSocketsSansIOProtocol]:
    found: type[WebSocketsSansIOProtocol] = request.param
    return found


@pytest.fixture
async def each(base: type[WebSocketsSansIOProtocol]) -> AsyncIterator[Service]:
    async with served(base) as service:
        yield service
