"""A function whose result is not awaited is refused: a coroutine is truthy."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import strawberry
from strawberry.types import Info
from websockets.exceptions import InvalidStatus

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager
from gqlnotify.callables import plain_result, require_plain
from gqlnotify.errors import InternalError
from tests.applications import websocket
from tests.message_app import MessageApp
from tests.streams import NUMBERS, publish_all, started, take


async def refuses(*_arguments: object) -> bool:
    return False


async def yields(*_arguments: object) -> AsyncIterator[bool]:
    yield False


def generates(*_arguments: object) -> Any:
    yield False


class Called:
    async def __call__(self, *_arguments: object) -> bool:
        return False

    async def method(self, *_arguments: object) -> bool:
        return False


ASYNC: list[Callable[..., Any]] = [
    refuses,
    yields,
    generates,
    Called(),
    Called().method,
    partial(refuses, 1),
    partial(partial(Called().method, 1), 2),
    partial(Called()),
]


def later() -> "asyncio.Future[bool]":
    return asyncio.ensure_future(refuses())


HIDDEN: list[Callable[..., Any]] = [
    lambda *_arguments: refuses(),
    lambda *_arguments: yields(),
    lambda *_arguments: later(),
    lambda *_arguments: asyncio.gather(refuses()),
]


@pytest.mark.parametrize("function", ASYNC)
def test_a_function_that_is_seen_to_be_asynchronous_is_refused(function: Any) -> None:
    with pytest.raises(InternalError, match="where must be a plain function"):
        require_plain(function, "where")
    manager = TopicManager(settings=Settings(broker_url="memory://"))
    with pytest.raises(InternalError, match="where"):
        manager.subscribe(NUMBERS, where=function)
    with pytest.raises(InternalError, match="map"):
        manager.subscribe(NUMBERS).map(function)
    with pytest.raises(InternalError, match="latest_by"):
        Topic("numbers", int, latest_by=function)


@pytest.mark.parametrize("function", [None, bool, len, lambda: 1, partial(int, "1"), Called])
def test_a_plain_function_is_taken(function: Any) -> None:
    require_plain(function, "where")


@pytest.mark.parametrize("function", HIDDEN)
async def test_an_awaitable_is_no_result(function: Any) -> None:
    with pytest.raises(InternalError, match="where returned"):
        plain_result(function(), "where")


@pytest.mark.parametrize("function", HIDDEN)
async def test_a_filter_that_returns_an_awaitable_passes_no_event(function: Any) -> None:
    manager = TopicManager(settings=Settings(broker_url="memory://"))
    filtered = await started(manager.subscribe(NUMBERS, where=function))
    mapped = await started(manager.subscribe(NUMBERS).map(function))
    await publish_all(manager, [1])
    with pytest.raises(InternalError, match="where returned"):
        await take(filtered, 1)
    with pytest.raises(InternalError, match="map returned"):
        await take(mapped, 1)
    await manager.close()


@pytest.mark.processes
@pytest.mark.parametrize("per_viewer", [False, True], ids=["shared", "per viewer"])
@pytest.mark.parametrize("function", [refuses, HIDDEN[0]], ids=["known", "hidden"])
async def test_clients_of_such_a_filter_get_an_error_and_no_event(
    function: Any, per_viewer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    message_app = MessageApp()
    topics, topic = message_app.topics, Topic("secrets", str)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def secrets(self, info: Info) -> AsyncIterator[str]:
            return topics.subscribe(topic, where=function, per_viewer=per_viewer)

    message_app.schema = strawberry.Schema(message_app.schema.query, subscription=Subscription)
    async with websocket(message_app.router()) as socket:
        before = await topics.cursor(topic)
        await topics.publish(topic, "hidden")
        await socket.init()
        await socket.subscribe("1", "subscription { secrets }", extensions={"after": before})
        [error] = await socket.error("1")
    assert (error["message"], error["extensions"]) == (
        "Internal server error",
        {"code": "INTERNAL_SERVER_ERROR"},
    )
    assert "where" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.processes
async def test_an_origin_is_not_allowed_by_an_awaitable(caplog: pytest.LogCaptureFixture) -> None:
    class Router(GraphQLRouter[Any, Any]):
        async def is_websocket_origin_allowed(  # type: ignore[override]
            self, request: object, origin: str
        ) -> bool:
            return False

    message_app = MessageApp()
    router = Router(message_app.schema, topics=message_app.topics)
    with pytest.raises(InvalidStatus, match="500"):
        async with websocket(router, additional_headers={"origin": "https://evil.example"}):
            pass
    assert "is_websocket_origin_allowed returned" in caplog.text
