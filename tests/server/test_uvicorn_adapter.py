"""If uvicorn lacks what our protocol classes need, its own classes serve."""

import pytest
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

from gqlnotify import frameworks, server
from gqlnotify.server import uvicorn_adapter
from gqlnotify.server.http import HttpProtocol
from gqlnotify.server.websocket import WebSocketProtocol


@pytest.fixture(autouse=True)
def nothing_was_told() -> None:
    frameworks.warn_of_fallback.cache_clear()


def test_this_version_of_uvicorn_has_all_that_is_needed() -> None:
    assert (server.WebSocketProtocol, server.HttpProtocol) == (WebSocketProtocol, HttpProtocol)


def test_websockets_fall_back_to_uvicorns_own_class(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn_adapter, "WEBSOCKET_LACKS", ("ServerProtocol.events",))

    assert uvicorn_adapter.usable_websocket(WebSocketProtocol) is AutoWebSocketsProtocol
    assert "ServerProtocol.events" in caplog.text


def test_http_falls_back_to_uvicorns_own_class(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn_adapter, "HTTP_LACKS", ("HttpToolsProtocol.cycle",))

    assert uvicorn_adapter.usable_http(HttpProtocol) is AutoHTTPProtocol
    assert "HttpToolsProtocol.cycle" in caplog.text
