"""Operations that end leave nothing, and do not affect the others of their group."""

import asyncio
from typing import Any

import pytest
from strawberry.extensions import SchemaExtension
from strawberry.types import Info

from gqlnotify import (
    Subscription,
)
from gqlnotify.websocket.handler import GraphQLTransportWSHandler
from tests.applications import application
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.execution import (
    LATER,
    PLAIN,
    TOLD,
    Stage,
    audience,
    groups,
    joined,
    subscribe_all,
    told,
)
from tests.servers import running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


async def test_a_client_that_completes_leaves_the_group(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice, bob], TOLD)
        await alice.complete("1")
        await joined(router, 1)
        await stage.say("hi")
        assert await told([bob]) == ["hi"]
        await alice.is_silent()


async def test_the_last_member_leaves_nothing(stage: Stage) -> None:
    router = stage.router()
    async with running(application(router)) as origin, open_socket(f"ws://{origin}") as socket:
        await socket.init({"token": token("alice")})
        await socket.is_silent()
        tasks = asyncio.all_tasks()
        for document in (TOLD, LATER, PLAIN):
            await subscribe_all(router, [socket], document)
            await stage.say("hi")
            await socket.next("1")
            await socket.complete("1")
            await wait_until(lambda: not stage.listens)
            assert not groups(router)
            await wait_until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_connection_that_breaks_leaves_its_groups(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice, bob], TOLD)
        alice.connection.transport.abort()
        await joined(router, 1)
        bob.connection.transport.abort()
        await wait_until(lambda: not groups(router) and not stage.listens)


@pytest.mark.parametrize("how", ["complete", "break"])
async def test_a_resolver_that_swallows_its_cancellation_joins_no_group(
    stage: Stage, how: str
) -> None:
    begun, swallowed = asyncio.Event(), asyncio.Event()

    async def choose(_info: Info) -> Subscription[Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        return stage.topics.subscribe(stage.notes)

    stage.choose = choose
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", TOLD)
        await begun.wait()
        if how == "complete":
            await alice.complete("1")
        else:
            alice.connection.transport.abort()
        await swallowed.wait()
        await wait_until(lambda: not groups(router) and not stage.listens)
        await stage.say("without a subscriber")
        if how == "complete":
            await alice.is_silent()


async def test_an_operation_that_ends_while_its_client_completes_it_affects_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = GraphQLTransportWSHandler._received

    async def ending(self: GraphQLTransportWSHandler, message: Any) -> None:
        if '"complete"' in message:
            # In this tick the group has ended.
            for group in groups(router):
                if any(getattr(member, "id", None) == "1" for member in group._members):
                    group._end([])
        await received(self, message)

    monkeypatch.setattr(GraphQLTransportWSHandler, "_received", ending)
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await alice.subscribe("2", PLAIN)
        await joined(router, 2)
        await alice.complete("1")
        await joined(router, 1)
        await stage.say("hi")
        while (message := await alice.receive())["id"] != "2":
            assert message == {"type": "complete", "id": "1"}
        assert message["payload"]["data"] == {"notes": {"text": "hi"}}


async def test_an_extension_whose_end_is_interrupted_leaves_nothing() -> None:
    inside, gate = asyncio.Event(), asyncio.Event()

    class Lingering(SchemaExtension):
        async def on_operation(self) -> Any:
            try:
                yield
            finally:
                inside.set()
                await gate.wait()

    stage = Stage(extensions=[Lingering])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", TOLD)
        await inside.wait()
        await alice.complete("1")
        await wait_until(lambda: not stage.listens)
        assert not groups(router)
