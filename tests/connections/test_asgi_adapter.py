"""An ASGI call ends early only if nothing waits for its end."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket

from gqlnotify import frameworks
from gqlnotify.connections import asgi_adapter
from gqlnotify.connections.asgi_adapter import STACKS, forget_stacks, is_unattended

APP = FastAPI()
SEEN: dict[str, Any] = {}


@APP.websocket("/")
async def _look(websocket: WebSocket) -> None:
    SEEN.update(websocket.scope, unattended=is_unattended(websocket.scope, APP))


@pytest.fixture
def scope() -> dict[str, Any]:
    return {"app": APP, **{name: AsyncExitStack() for name in STACKS}}


@pytest.fixture(autouse=True)
def nothing_was_told() -> None:
    frameworks.warn_of_fallback.cache_clear()


async def test_this_version_of_fastapi_has_exactly_the_stacks_that_are_known() -> None:
    await APP(
        {"type": "websocket", "path": "/", "headers": [], "query_string": b""}, _nothing, _nothing
    )

    assert SEEN["unattended"]
    assert {name for name in SEEN if name.endswith("_astack")} == set(STACKS)


async def _nothing(*_: Any) -> Any:
    pass


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_under_another_name_keeps_the_call(
    scope: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    scope["renamed"] = scope.pop(name)

    assert not is_unattended(scope, APP)
    assert not is_unattended(scope, APP)
    [line] = caplog.messages
    assert f"scope['{name}']" in line


@pytest.mark.parametrize("name", [*STACKS, "another"])
def test_a_stack_that_holds_something_keeps_the_call(scope: dict[str, Any], name: str) -> None:
    stack = scope.setdefault(name, AsyncExitStack())
    stack.callback(print)

    assert not is_unattended(scope, APP)
    stack.pop_all()
    assert is_unattended(scope, APP)


def test_where_a_mount_leaves_no_sign_every_call_is_kept(
    scope: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asgi_adapter, "_MOUNT_LACKS", ("scope['app_root_path']",))

    assert not is_unattended(scope, APP)
    assert "starlette" in caplog.text


def test_stacks_are_forgotten(scope: dict[str, Any]) -> None:
    forget_stacks(scope)

    assert scope == {"app": APP}
