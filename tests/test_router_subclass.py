"""Subclasses of the router can use every name that Strawberry's router does not use."""

from typing import Any

import pytest
import strawberry
from starlette.websockets import WebSocket
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.subscriptions import GRAPHQL_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import (
    BaseGraphQLTransportWSHandler,
)

from gqlnotify import GraphQLRouter, Principal, Settings
from gqlnotify.errors import Unauthenticated
from tests.applications import (
    COUNT,
    EVENT_STREAM,
    HELLO,
    application,
    client_of,
    events,
    post,
    schema_of,
)
from tests.e2e.raw import open_socket
from tests.servers import running

_WORDS = (
    "_admission _attempts _authenticate _error_response _executions _may _refuse _settings "
    "_state _topics _verify _viewer _with_topics admission admit attempts authenticate "
    "broker connections detachable document_id event_context executions limits lifespan "
    "log logger may metrics persisted principal publish refusal refuse revocations service "
    "settings state subscribe topics verified verify viewer watch "
)
NAMES = _WORDS.split()


def _misuse(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("this belongs to the application")


class WithAttributes(GraphQLRouter):
    """Sets attributes before and after the constructor, as an application might."""

    def __init__(self, schema: strawberry.Schema, **options: Any) -> None:
        self._name_all()
        super().__init__(schema, **options)
        self._name_all()

    def _name_all(self) -> None:
        for name in NAMES:
            setattr(self, name, _misuse)


WithMethods = type("WithMethods", (GraphQLRouter,), dict.fromkeys(NAMES, _misuse))
WithProperties = type("WithProperties", (GraphQLRouter,), dict.fromkeys(NAMES, property(_misuse)))


def anyone(token: Any, _connection: Any) -> Principal:
    return Principal(subject=str(token))


@pytest.mark.processes
@pytest.mark.parametrize("router", [WithAttributes, WithMethods, WithProperties])
async def test_a_subclass_can_use_any_attribute_name(router: Any) -> None:
    made = router(
        schema_of(),
        authenticate=anyone,
        settings=Settings(broker_url="memory://"),
        subscription_protocols=("graphql-transport-ws", "graphql-sse"),
    )
    async with running(application(made)) as origin, client_of(origin) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        assert (await client.post("/graphql", json=[])).status_code == 400
        answer = await client.post("/graphql", json={"query": COUNT}, headers=EVENT_STREAM)
        assert len(events(answer.text)) == 3
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert await socket.query(HELLO) == {"hello": "world"}


# Strawberry's own attributes, which older versions do not have.
NEWER = {"allowed_origins", "is_websocket_origin_allowed", "reject_websocket"}
NEWER |= {"_check_websocket_origin"}


def test_the_router_adds_two_names_to_those_of_strawberry() -> None:
    schema = schema_of()
    added = set(dir(GraphQLRouter(schema))) - set(dir(StrawberryRouter(schema)))
    assert added - NEWER == {"_gqlnotify", "revocations"}


class StockHandler(BaseGraphQLTransportWSHandler[Any, Any]):
    """A subclass that was written for Strawberry's router."""


class StockSockets(GraphQLRouter):
    graphql_transport_ws_handler_class = StockHandler


class LegacySockets(GraphQLRouter):
    @property
    def websocket_subprotocols(self) -> list[str]:
        return [GRAPHQL_WS_PROTOCOL]


@pytest.mark.parametrize("router", [StockSockets, LegacySockets])
def test_sockets_that_do_not_check_tokens_are_refused_together_with_tokens(router: Any) -> None:
    with pytest.raises(ValueError, match="without a check of the token"):
        router(schema_of(), authenticate=anyone)
    router(schema_of())


async def test_later_changes_of_the_application_do_not_bypass_tokens() -> None:
    made = GraphQLRouter(
        schema_of(), authenticate=anyone, settings=Settings(broker_url="memory://")
    )
    made.graphql_transport_ws_handler_class = StockHandler
    with pytest.raises(ValueError, match="without a check of the token"):
        await made.run(WebSocket({"type": "websocket", "headers": []}, _misuse, _misuse))


class OwnRun(GraphQLRouter):
    """Overrides hooks and calls the router's."""

    async def run(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().run(request, *args, **kwargs)

    async def execute_operation(self, *args: Any, **kwargs: Any) -> Any:
        return await super().execute_operation(*args, **kwargs)

    async def execute_single(self, *args: Any, **kwargs: Any) -> Any:
        return await super().execute_single(*args, **kwargs)


@pytest.mark.processes
async def test_hooks_that_call_ours_work_and_keep_the_token() -> None:
    async def refuse(_token: Any, _connection: Any) -> Principal:
        raise Unauthenticated("not you")

    settings = Settings(broker_url="memory://")
    for check, status in ((anyone, 200), (refuse, 401)):
        made = OwnRun(schema_of(), authenticate=check, settings=settings)
        async with running(application(made)) as origin, client_of(origin) as client:
            assert (await client.post("/graphql", json={"query": HELLO})).status_code == status
