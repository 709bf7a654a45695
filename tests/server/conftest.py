"""A service of gqlnotify under each protocol class."""

import math
from collections.abc import AsyncIterator

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gqlnotify import event_loop
from gqlnotify.execution import group
from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.service import Service, served


@pytest.fixture(autouse=True)
def whole_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do all work of a tick in that tick. A busy machine would cut it into slices."""
    monkeypatch.setattr(event_loop, "SLICE_SECONDS", math.inf)
    monkeypatch.setattr(event_loop, "LONGEST_REST_SECONDS", 0)
    monkeypatch.setattr(group, "COLLECT_SECONDS", math.inf)


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
