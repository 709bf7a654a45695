"""Each event is executed once and encoded once for all who ask the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from strawberry.extensions import (
    MaskErrors,
)
from strawberry.types import Info

from gqlnotify import Settings, Subscription
from gqlnotify.errors import BadUserInput
from gqlnotify.topics import live_topic
from tests.applications import (
    ALL_PROTOCOLS,
    STREAMS,
    application,
    bearer,
    client_of,
    stream_of,
)
from tests.execution import (
    LATER,
    PLAIN,
    TOLD,
    CountingRouter,
    Stage,
    audience,
    codes,
    enter,
    executions,
    failing,
    groups,
    joined,
    sizes,
    subscribe_all,
    told,
)
from tests.recorder import Recorder
from tests.servers import patience, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def stage() -> Stage:
    return Stage()


# One execution, one encoding


@pytest.mark.parametrize(("document", "runs"), [(TOLD, 3), (LATER, 3), (PLAIN, 0)])
async def test_an_event_is_executed_and_encoded_once_for_all(
    stage: Stage, document: str, runs: int
) -> None:
    router = stage.router()
    async with audience(router, *["somebody"] * 20) as all_:
        await subscribe_all(router, all_, document)
        for text in ("one", "two", "three"):
            await stage.say(text)
            results = [await socket.next("1") for socket in all_]
            assert all(result == results[0] for result in results)
            assert results[0]["extensions"]["cursor"] == await stage.now()
    assert len(stage.executed) == runs
    assert router.encoded == 3


async def test_operations_of_one_connection_share_as_well(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        for number in range(10):
            await alice.subscribe(str(number), TOLD)
        await joined(router, 10)
        await stage.say("hi")
        messages = [await alice.receive() for _ in range(10)]
    assert {message["id"] for message in messages} == set(map(str, range(10)))
    assert len(stage.executed) == router.encoded == 1


@pytest.mark.parametrize("field", ["told", "later"])
async def test_a_hundred_who_return_cost_one_execution_an_event(stage: Stage, field: str) -> None:
    document = f"subscription {{ notes {{ {field} }} }}"
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        before = await stage.now()
        await subscribe_all(router, [alice], document)
    texts = [str(number) for number in range(20)]
    await stage.say(*texts)
    async with audience(router, *["somebody"] * 4) as four:
        for number in range(100):
            socket = four[number % 4]
            await socket.subscribe(str(number), document, extensions={"after": before})
        got: dict[str, list[str]] = {}
        for socket in four:
            for _ in range(25 * 20):
                message = await socket.receive()
                heard = got.setdefault(message["id"], [])
                heard.append(message["payload"]["data"]["notes"][field])
    assert list(got.values()) == [texts] * 100
    assert stage.executed == texts


async def test_whoever_returns_to_nobody_finds_what_was_made_before(stage: Stage) -> None:
    router = stage.router()
    before = await stage.now()
    for _ in range(2):
        async with audience(router, "alice") as (alice,):
            if not stage.executed:
                await stage.say("one", "two")
            await alice.subscribe("1", TOLD, extensions={"after": before})
            assert await told([alice, alice]) == ["one", "two"]
        await wait_until(lambda: not groups(router))
    assert stage.executed == ["one", "two"]


async def test_those_who_come_while_a_resolver_takes_its_time_wait_for_the_same(
    stage: Stage,
) -> None:
    gate = asyncio.Event()

    async def slowly(text: str, info: Info) -> object:
        await gate.wait()
        return text

    stage.tell_later = slowly
    router = stage.router()
    async with audience(router, "alice", "bob", "carol") as three:
        before = await stage.now()
        await subscribe_all(router, three[:1], LATER)
        await stage.say("slow")
        await wait_until(lambda: stage.executed)
        for socket in three[1:]:
            await socket.subscribe("1", LATER, extensions={"after": before})
        await joined(router, 3)
        gate.set()
        assert await told(three, "later") == ["slow"] * 3
    assert stage.executed == ["slow"]


async def test_whoever_leaves_in_the_middle_of_an_execution_leaves_it_to_the_next(
    stage: Stage,
) -> None:
    gate = asyncio.Event()

    async def slowly(text: str, info: Info) -> object:
        await gate.wait()
        return text

    stage.tell_later = slowly
    router = stage.router()
    before = await stage.now()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], LATER)
        await stage.say("slow")
        await wait_until(lambda: stage.executed)
        await alice.complete("1")
        await wait_until(lambda: not groups(router))
        await bob.subscribe("1", LATER, extensions={"after": before})
        await wait_until(lambda: groups(router))
        gate.set()
        assert await told([bob], "later") == ["slow"]
        await alice.is_silent()
    assert stage.executed == ["slow"]


async def test_what_is_older_than_the_window_is_executed_once_as_well(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_topic, "BUFFER_SIZE", 4)
    monkeypatch.setattr(live_topic, "PAGE_SIZE", 3)
    texts = [str(number) for number in range(10)]
    router = stage.router()
    async with audience(router, "alice", "bob", *["somebody"] * 5) as (alice, bob, *five):
        before = await stage.now()
        await subscribe_all(router, [alice, bob], TOLD)
        await stage.say(*texts)
        for socket in five:
            await socket.subscribe("1", TOLD, extensions={"after": before})
        await joined(router, 7)
        for socket in (alice, bob, *five):
            assert await told([socket] * 10) == texts
    assert stage.executed == texts


async def test_without_a_cache_everybody_still_gets_everything(stage: Stage) -> None:
    router = stage.router(settings=Settings(outcome_cache_bytes=0), authenticate=None)
    async with audience(router, "alice", "bob") as both:
        before = await stage.now()
        await stage.say("one", "two")
        for socket in both:
            await socket.subscribe("1", TOLD, extensions={"after": before})
            assert await told([socket] * 2) == ["one", "two"]
        await joined(router, 2)
        await stage.say("three")
        assert await told(both) == ["three"] * 2
    assert stage.executed == ["one", "two", "one", "two", "three"]


# What goes wrong


async def test_an_error_reaches_every_member_and_the_stream_goes_on(stage: Stage) -> None:
    stage.tell = failing
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("bad", "good")
        for socket in both:
            result = await socket.next("1")
            assert result["data"] == {"notes": {"told": None}}
            assert result["errors"][0]["message"] == "on purpose"
            assert result["errors"][0]["path"] == ["notes", "told"]
            assert result["extensions"]["cursor"]
        assert await told(both) == ["good"] * 2
    assert stage.executed == ["bad", "good"]


async def test_an_error_is_not_kept_for_those_who_come_later(stage: Stage) -> None:
    stage.tell = failing
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        before = await stage.now()
        await subscribe_all(router, [alice], TOLD)
        await stage.say("bad")
        assert "errors" in await alice.next("1")
        stage.tell = lambda text, _info: "better"
        await bob.subscribe("1", TOLD, extensions={"after": before})
        assert await told([bob]) == ["better"]


def refusing(note: Any) -> bool:
    if note.text == "bad":
        raise ValueError("on purpose")
    return True


def refusing_to_map(note: Any, event: Any) -> Any:
    refusing(note)
    return note


class Picky(CountingRouter):
    def encode_json(self, data: object) -> str | bytes:
        if isinstance(data, dict) and "unspeakable" in str(data.get("payload")):
            raise ValueError("on purpose")
        return super().encode_json(data)


@pytest.mark.parametrize("where", ["where", "map"])
@pytest.mark.parametrize("extensions", [(), (MaskErrors,)], ids=["plain", "masked"])
async def test_what_fails_before_the_execution_ends_only_whom_it_concerns(
    where: str, extensions: tuple[Any, ...]
) -> None:
    stage = Stage(extensions=extensions)

    def choose(info: Info) -> Subscription[Any]:
        if "hello" not in info.context["connection_params"]["name"]:
            return stage.topics.subscribe(stage.notes)
        if where == "where":
            return stage.topics.subscribe(stage.notes, where=refusing)
        return stage.topics.subscribe(stage.notes).map(refusing_to_map)

    stage.choose = choose
    router = stage.router()
    async with audience(router, "hello 1", "hello 2", "other") as (one, two, other):
        await subscribe_all(router, [one, two, other], TOLD)
        await stage.say("bad")
        for socket in (one, two):
            [error] = await socket.error("1")
            assert ("Unexpected error" in error["message"]) is bool(extensions)
            await socket.is_silent()
        assert await told([other]) == ["bad"]
        assert sizes(router) == [1]
        # The connection is as good as before.
        await subscribe_all(router, [one, two], TOLD)
        await stage.say("good")
        assert await told([one, two, other]) == ["good"] * 3


async def test_what_cannot_be_encoded_is_an_error_for_whom_it_concerns(stage: Stage) -> None:
    stage.tell = lambda text, _info: f"{text}, which is unspeakable" if text == "bad" else text
    router = Picky(stage.schema, topics=stage.topics)
    async with audience(router, "alice", "bob", "carol") as (alice, bob, carol):
        await subscribe_all(router, [alice, bob], TOLD)
        await subscribe_all(router, [carol], PLAIN)
        await stage.say("bad", "good")
        for socket in (alice, bob):
            [error] = (await socket.next("1"))["errors"]
            assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        assert await told([alice, bob]) == ["good", "good"]
        assert await told([carol] * 2, "text") == ["bad", "good"]


async def test_half_a_character_ends_only_whom_it_concerns(stage: Stage) -> None:
    stage.tell = lambda text, _info: "\ud83d" if text == "bad" else text
    router = stage.router()
    router.json_encoder = None  # type: ignore[attr-defined]
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], TOLD)
        await subscribe_all(router, [bob], PLAIN)
        await stage.say("bad", "good")
        message = await alice.receive()
        assert message["type"] in {"error", "next"}
        assert await told([bob] * 2, "text") == ["bad", "good"]


@pytest.mark.parametrize("field", ["told", "later"])
async def test_a_resolver_that_is_cancelled_ends_the_operations_it_concerns(
    stage: Stage, field: str
) -> None:
    def cancelled(text: str, info: Info) -> object:
        if text == "bad":
            raise asyncio.CancelledError
        return text

    async def cancelled_later(text: str, info: Info) -> object:
        await asyncio.sleep(0)
        return cancelled(text, info)

    stage.tell, stage.tell_later = cancelled, cancelled_later
    router = stage.router()
    async with audience(router, "alice", "bob") as both, asyncio.timeout(5):
        await subscribe_all(router, both, f"subscription {{ notes {{ {field} }} }}")
        await stage.say("bad", "good")
        for socket in both:
            message = await socket.receive()
            assert message["type"] == "error" or "errors" in message["payload"]


async def test_an_event_that_is_gone_ends_all_members(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        # The history begins anew, and the live path says so.
        broker: Any = stage.topics._broker
        del broker._histories["notes"]
        await stage.say("of a new epoch")
        for socket in both:
            assert (await socket.error("1"))[0]["extensions"]["code"] == "CURSOR_EXPIRED"
        assert not groups(router)


async def test_closing_the_topics_completes_all_members(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.topics.close()
        for socket in both:
            await socket.completed("1")
        assert not groups(router)


# Slow resolvers


async def test_a_slow_resolver_keeps_the_order_and_holds_up_nobody_else(stage: Stage) -> None:
    gate = asyncio.Event()

    async def slowly(text: str, info: Info) -> object:
        if text == "slow":
            await gate.wait()
        return text

    stage.tell_later = slowly
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice, bob], LATER)
        await alice.subscribe("other", TOLD)
        await joined(router, 3)
        await stage.say("quick", "slow", "last")
        heard = [await alice.receive() for _ in range(4)]
        others = [m["payload"]["data"]["notes"]["told"] for m in heard if m["id"] == "other"]
        assert others == ["quick", "slow", "last"]
        # What was ready did not wait for what takes its time.
        assert [m["payload"]["data"]["notes"]["later"] for m in heard if m["id"] == "1"] == [
            "quick"
        ]
        assert await told([bob], "later") == ["quick"]
        await bob.is_silent()
        gate.set()
        for socket in (alice, bob):
            assert await told([socket] * 2, "later") == ["slow", "last"]


async def test_joins_and_leaves_during_a_slow_execution(stage: Stage) -> None:
    gate = asyncio.Event()

    async def slowly(text: str, info: Info) -> object:
        if text == "slow":
            await gate.wait()
        return text

    stage.tell_later = slowly
    router = stage.router()
    async with audience(router, "alice", "bob", "carol") as (alice, bob, carol):
        await subscribe_all(router, [alice, bob], LATER)
        before = await stage.now()
        await stage.say("slow")
        await wait_until(lambda: stage.executed)
        await alice.complete("1")
        await joined(router, 1)
        # From here on, and from the very same place.
        await carol.subscribe("now", LATER)
        await carol.subscribe("before", LATER, extensions={"after": before})
        await joined(router, 2)
        gate.set()
        assert await told([bob], "later") == ["slow"]
        result = await carol.next("before")
        assert result["data"] == {"notes": {"later": "slow"}}
        await joined(router, 3)
        await stage.say("last")
        assert await told([bob], "later") == ["last"]
        assert {(await carol.receive())["id"] for _ in range(2)} == {"now", "before"}
        await alice.is_silent()


async def test_a_slow_resolver_does_not_outlive_the_last_who_waits_for_long(stage: Stage) -> None:
    gate = asyncio.Event()

    async def slowly(text: str, info: Info) -> object:
        await gate.wait()
        return text

    stage.tell_later = slowly
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], LATER)
        await stage.say("slow")
        await wait_until(lambda: stage.executed)
        await alice.complete("1")
        await wait_until(lambda: not groups(router))
        gate.set()
        await wait_until(lambda: not any(each._pending for each in executions(router)))
        await alice.is_silent()


# The context of an event


async def test_the_context_is_made_for_the_scope(stage: Stage) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, scope=("nl", 1))

    async def make_later(scope: Any) -> Any:
        await asyncio.sleep(0)
        return {"made for": list(scope)}

    stage.tell = lambda _text, info: info.context["made for"]
    for make in (lambda scope: {"made for": list(scope)}, make_later):
        router = stage.router(event_context=make)
        async with audience(router, "alice", "bob") as both:
            await subscribe_all(router, both, TOLD)
            await stage.say("hi")
            assert await told(both) == [["nl", 1]] * 2


async def raising_later(scope: Any) -> Any:
    raise BadUserInput("no context")


def raising(scope: Any) -> Any:
    raise BadUserInput("no context")


@pytest.mark.parametrize("make", [raising, raising_later])
@pytest.mark.parametrize("extensions", [(), (Recorder,)], ids=["plain", "extended"])
async def test_a_context_that_cannot_be_made_costs_its_event_alone(
    make: Any, extensions: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "record", [], raising=False)
    stage = Stage(extensions=extensions)
    router = stage.router(event_context=make)
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("one", "two")
        assert await codes(both) == ["BAD_USER_INPUT"] * 2
        assert await codes(both) == ["BAD_USER_INPUT"] * 2


# Streams over HTTP


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_streams_over_http_share_and_give_the_same_results(
    stage: Stage, kind: str, headers: dict[str, str]
) -> None:
    stage.tell = failing
    router = stage.router(subscription_protocols=ALL_PROTOCOLS)
    async with AsyncExitStack() as stack, patience():
        origin = await stack.enter_async_context(running(application(router)))
        client = await stack.enter_async_context(client_of(origin))
        alice = await enter(stack, origin, "alice")
        await subscribe_all(router, [alice], TOLD)
        body = {"query": TOLD, "extensions": {"after": await stage.now()}}
        streams = []
        for _ in range(2):
            answer = await stack.enter_async_context(
                client.stream("POST", "/graphql", json=body, headers={**headers, **bearer()})
            )
            streams.append(stream_of(answer, kind))
        await stage.say("one", "bad")
        for _ in range(2):
            results = [await anext(stream) for stream in streams] + [await alice.next("1")]
            assert all(result == results[0] for result in results)
        # The good one was kept; the bad one may have been made anew for those who came later.
        assert stage.executed.count("one") == 1
        await stage.topics.publish_bytes("notes", b"17")
        for stream in streams:
            assert (await anext(stream))["errors"]
    await wait_until(lambda: not stage.topics.live_topics.by_name)


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_waits_for_the_same_execution(
    stage: Stage, kind: str, headers: dict[str, str]
) -> None:
    gate = asyncio.Event()

    async def slowly(text: str, info: Info) -> object:
        await gate.wait()
        return text

    stage.tell_later = slowly
    stage.choose = lambda _info: stage.topics.subscribe(
        stage.notes, where=lambda note: note.text != "skipped"
    )
    router = stage.router(subscription_protocols=ALL_PROTOCOLS)
    async with AsyncExitStack() as stack, patience():
        origin = await stack.enter_async_context(running(application(router)))
        client = await stack.enter_async_context(client_of(origin))
        body = {"query": LATER, "extensions": {"after": await stage.now()}}
        await stage.say("skipped", "slow")
        answers = [
            await stack.enter_async_context(
                client.stream("POST", "/graphql", json=body, headers={**headers, **bearer()})
            )
            for _ in range(3)
        ]
        streams = [stream_of(answer, kind) for answer in answers]
        reading = [asyncio.ensure_future(_first(stream)) for stream in streams]
        await wait_until(lambda: stage.executed)
        gate.set()
        assert [result["data"] for result in await asyncio.gather(*reading)] == [
            {"notes": {"later": "slow"}}
        ] * 3
        assert stage.executed == ["slow"]


async def _first(stream: AsyncIterator[Any]) -> Any:
    return await anext(stream)


async def test_variables_that_are_very_deep_are_executed_by_themselves(stage: Stage) -> None:
    deep: Any = 0
    for _ in range(400):
        deep = [deep]
    router = stage.router()
    document = "subscription ($value: JSON!) { notes { altered(value: $value) } }"
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", document, variables={"value": deep})
        await joined(router, 1)
        await stage.say("hi")
        assert await told([alice], "altered") == [deep]
