"""Members of a group that lag get the latest of each key, marked; the others get every event."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strawberry.types import Info

from gqlnotify import Cursor, Topic
from gqlnotify.protocol.frames import Batch
from gqlnotify.topics import live_topic
from tests.applications import ALL_PROTOCOLS, STREAMS, application, bearer, client_of, stream_of
from tests.bad_brokers import UnreliableBroker, pause
from tests.execution import (
    LATER,
    TOLD,
    Stage,
    audience,
    enter,
    executions,
    joined,
    subscribe_all,
    told,
)
from tests.execution.test_group import FATES, STEPS, TURNS, Listener, Numbers, Step, playing
from tests.servers import patience, running
from tests.waiting import PATIENCE, wait_until


@pytest.fixture
def stage() -> Stage:
    """A stage whose notes begin with their key."""
    stage = Stage()
    stage.notes = Topic("notes", stage.note, latest_by=lambda note: note.text[0])
    return stage


def marks(result: dict[str, Any]) -> tuple[Any, Any]:
    """Return the text of a result, and its number of skipped events."""
    return result["data"]["notes"]["told"], result["extensions"].get("conflated")


@pytest.mark.processes
async def test_a_client_that_resumes_gets_the_latest_of_each_key_and_then_every_event(
    stage: Stage,
) -> None:
    router = stage.router()
    before = await stage.now()
    await stage.say("a1", "b1", "a2", "a3")
    async with audience(router, "alice", "bob") as both:
        for socket in both:
            await socket.subscribe("1", TOLD, extensions={"after": before})
            assert [marks(await socket.next("1")) for _ in "12"] == [("b1", 1), ("a3", 1)]
        await joined(router, 2)
        # A burst is no lag if it is handled in one tick.
        await stage.say("a4", "a5", "a6")
        for socket in both:
            assert [marks(await socket.next("1")) for _ in "123"] == [
                ("a4", None),
                ("a5", None),
                ("a6", None),
            ]
    assert stage.executed == ["b1", "a3", "a4", "a5", "a6"]


@pytest.mark.processes
async def test_the_count_of_skipped_events_is_only_on_results_of_lagging_clients(
    stage: Stage,
) -> None:
    router = stage.router()
    first = await stage.say("b1")
    middle = await stage.say("a1")
    await stage.say("a2")
    async with audience(router, "alice", "bob", "carol") as (alice, bob, carol):
        for socket, after, mark in ((alice, first, 1), (bob, middle, None), (carol, first, 1)):
            await socket.subscribe("1", TOLD, extensions={"after": after})
            result = await socket.next("1")
            assert marks(result) == ("a2", mark)
            assert result["extensions"]["cursor"] == await stage.now()
    assert stage.executed == ["a2"]


@pytest.mark.processes
async def test_errors_and_results_that_take_their_time_are_marked_as_well(stage: Stage) -> None:
    async def slowly(text: str, _info: Info) -> object:
        await asyncio.sleep(0)
        raise ValueError(text)

    stage.tell_later = slowly
    router = stage.router()
    before = await stage.now()
    await stage.say("a1", "a2")
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", LATER, extensions={"after": before})
        result = await alice.next("1")
        assert result["errors"][0]["message"] == "a2"
        assert result["extensions"] == {"cursor": await stage.now(), "conflated": 1}


@pytest.mark.processes
async def test_another_topic_of_the_same_name_shares_nothing(stage: Stage) -> None:
    every = Topic("notes", stage.note)
    request = iter([stage.notes, every, stage.notes])
    stage.choose = lambda _info: stage.topics.subscribe(next(request))
    router = stage.router()
    before = await stage.now()
    await stage.say("a1", "a2")
    async with audience(router, "alice", "bob", "carol") as (alice, bob, carol):
        for socket in (alice, bob, carol):
            await socket.subscribe("1", TOLD, extensions={"after": before})
        assert await told([alice, bob, bob, carol]) == ["a2", "a1", "a2", "a2"]
        assert len(executions(router)) == 2


@pytest.mark.processes
async def test_a_failing_key_ends_only_lagging_subscriptions(stage: Stage) -> None:
    def fails(note: Any) -> Any:
        return [note.text]

    stage.notes = Topic("notes", stage.note, latest_by=fails)
    router = stage.router()
    before = await stage.now()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("a1", "a2")
        assert await told([alice, alice]) == ["a1", "a2"]
        await bob.subscribe("1", TOLD, extensions={"after": before})
        [error] = await bob.error("1")
        assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
        await stage.say("a3")
        assert await told([alice]) == ["a3"]


@pytest.mark.processes
async def test_per_viewer_executions_and_own_generators_count_skipped_events(
    stage: Stage,
) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, per_viewer=True)
    before = await stage.now()
    await stage.say("a1", "b1", "a2")
    async with audience(stage.router(), "alice") as (alice,):
        await alice.subscribe("1", TOLD, extensions={"after": before})
        assert [marks(await alice.next("1")) for _ in "12"] == [("b1", 1), ("a2", None)]


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_results_of_a_stream_over_http_are_marked(
    stage: Stage, kind: str, headers: dict[str, str]
) -> None:
    router = stage.router(subscription_protocols=ALL_PROTOCOLS)
    before = await stage.now()
    await stage.say("a1", "a2")
    async with AsyncExitStack() as stack, patience():
        origin = await stack.enter_async_context(running(application(router)))
        alice = await enter(stack, origin, "alice")
        await alice.subscribe("1", TOLD, extensions={"after": before})
        client = await stack.enter_async_context(client_of(origin))
        body = {"query": TOLD, "extensions": {"after": before}}
        answer = await stack.enter_async_context(
            client.stream("POST", "/graphql", json=body, headers={**headers, **bearer()})
        )
        stream = stream_of(answer, kind)
        result = await anext(stream)
        assert result == await alice.next("1")
        assert marks(result) == ("a2", 1)
    await wait_until(lambda: not stage.topics.live_topics.by_name)


# Any order of actions


class Marked(Listener):
    """Counts the events that were skipped for it."""

    left_out = 0

    def _hear(self, batch: Batch) -> None:
        super()._hear(batch)
        for body in batch.bodies:
            self.left_out += body.message()["payload"]["extensions"].get("conflated", 0)


@given(STEPS, FATES, TURNS, st.integers(0, 3))
@settings(
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_each_member_gets_the_latest_of_each_key_in_order_and_how_many_were_skipped(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Step],
    fates: list[list[int]],
    turns: list[int],
    answer_turns: int,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(live_topic, "BUFFER_SIZE", 4)
        patched.setattr(live_topic, "PAGE_SIZE", 3)
        patched.setattr(live_topic, "RETRY_SECONDS", (0.001, 0.002))
        broker = UnreliableBroker(fates, answer_turns=answer_turns)
        asyncio.run(_play(broker, steps, turns))


async def _play(broker: UnreliableBroker, steps: list[Step], turns: list[int]) -> None:
    async with playing(broker, turns) as numbers, asyncio.timeout(PATIENCE):
        numbers.topic = Topic("numbers", numbers.number, latest_by=lambda number: number.raw % 3)
        cursors = [await numbers.topics.cursor(numbers.topic)]
        listeners: list[tuple[int, Marked]] = []
        for what, number in steps:
            await _step(numbers, cursors, listeners, what, number)
        for _, listener in listeners:
            listener.slow = False
        for _ in range(3):
            cursors.append(await numbers.say(len(cursors)))
        numbers.topics.live_topics.refresh("numbers")
        last = len(cursors) - 1
        for beginning, listener in listeners:
            await wait_until(lambda heard=listener.heard: heard and heard[-1] == last)
            heard = listener.heard
            assert heard == sorted(set(heard))
            assert {last, last - 1, last - 2} <= set(heard)
            assert len(heard) + listener.left_out == last - beginning
            await listener.leave()


async def _step(
    numbers: Numbers,
    cursors: list[Cursor],
    listeners: list[tuple[int, Marked]],
    what: str,
    number: int,
) -> None:
    match what:
        case "publish":
            for _ in range(number):
                cursors.append(await numbers.say(len(cursors)))
        case "join" | "return":
            beginning = number % len(cursors)
            shareable = await numbers.ask(cursors[beginning])
            listener = Marked(shareable.execution)
            listener.join(shareable.subscriber)
            listeners.append((beginning, listener))
        case "slow" | "quick" if listeners:
            listeners[number % len(listeners)][1].slow = what == "slow"
        case "turn":
            await pause(number)
