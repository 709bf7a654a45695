"""What a process knows about a subject and an event, without having recorded a delivery."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gqlnotify import Cursor, Settings, Topic, TopicManager
from gqlnotify.auth import Principal, Viewer, viewing
from gqlnotify.errors import Forbidden
from gqlnotify.observability import trace
from gqlnotify.topics import why
from gqlnotify.topics.subscription import Subscription

NUMBERS = Topic("numbers", int)


@pytest.fixture(autouse=True)
def empty_ring() -> Iterator[None]:
    trace.ring.clear()
    yield
    trace.ring.clear()


@pytest.fixture
async def topics() -> AsyncIterator[TopicManager]:
    manager = TopicManager(settings=Settings(broker_url="memory://"))
    await manager.start()
    yield manager
    await manager.close()


def viewer(subject: str, *topics: str) -> Viewer:
    return Viewer(Principal(subject, subscribe=topics))


async def started(topics: TopicManager, subject: str, **options: Any) -> Subscription[int]:
    with viewing(viewer(subject, "*")):
        subscription = topics.subscribe(NUMBERS, **options)
    await subscription.start()
    return subscription


async def asked(topics: TopicManager, **question: Any) -> dict[str, Any]:
    answers = await topics.survey.ask(why.ASKED, {"topic": "numbers", **question})
    value: dict[str, Any] = answers.answers[0].value
    return value


def is_even(number: int) -> bool:
    return number % 2 == 0


def fails(number: int) -> bool:
    return bool(1 / number)


async def test_a_running_subscription_tells_how_far_it_has_got(topics: TopicManager) -> None:
    alice, bob = await started(topics, "alice"), await started(topics, "bob")
    began = await topics.cursor(NUMBERS)
    cursor = await topics.publish(NUMBERS, 1)
    await anext(alice)

    answer = await asked(topics, subject="alice", cursor=str(cursor))

    assert answer["received"] == cursor
    assert answer["reads"] == ["numbers"]
    [reading] = answer["readings"]
    assert (reading["began"], reading["reached"]) == (began, cursor)
    assert reading["outcome"] == "passes"
    everybody = await asked(topics)
    assert {each["subject"] for each in everybody["readings"]} == {"alice", "bob"}
    await bob.aclose()


@pytest.mark.parametrize(
    ("where", "number", "outcome"),
    [(is_even, 2, "passes"), (is_even, 3, "filtered"), (fails, 0, "filter_failed")],
)
async def test_the_filter_is_asked_again(
    topics: TopicManager, where: Any, number: int, outcome: str
) -> None:
    stream = await started(topics, "alice", where=where)
    cursor = await topics.publish(NUMBERS, number)

    [reading] = (await asked(topics, subject="alice", cursor=str(cursor)))["readings"]

    assert reading["outcome"] == outcome
    assert reading["filter"].startswith(f"{where.__name__} (topics/test_why.py:")
    await stream.aclose()


async def test_an_event_of_another_type_is_unreadable(topics: TopicManager) -> None:
    stream = await started(topics, "alice")
    cursor = await topics.publish("numbers", "a text")

    [reading] = (await asked(topics, subject="alice", cursor=str(cursor)))["readings"]

    assert reading["outcome"] == "unreadable"
    await stream.aclose()


async def test_the_scopes_in_which_an_event_passes_are_named(topics: TopicManager) -> None:
    def scoped(least: int) -> dict[str, Any]:
        return {"where": lambda number: number >= least, "scope": least}

    low, high = await started(topics, "low", **scoped(1)), await started(topics, "hi", **scoped(9))
    cursor = await topics.publish(NUMBERS, 5)

    answer = await asked(topics, subject="hi", cursor=str(cursor))

    [reading] = answer["readings"]
    assert (reading["outcome"], reading["scope"], reading["scopeDecides"]) == (
        "filtered",
        "9",
        True,
    )
    assert [each["scope"] for each in answer["passingScopes"]] == ["1"]
    await low.aclose()
    await high.aclose()


async def test_begin_end_and_refusal_are_recorded(topics: TopicManager) -> None:
    stream = await started(topics, "alice")
    began = stream.subscriber.position
    await topics.publish(NUMBERS, 1)
    await anext(stream)
    await stream.aclose()
    with viewing(viewer("alice", "rooms")):
        refused = topics.subscribe(NUMBERS)
    with pytest.raises(Forbidden):
        await refused.start()

    answer = await asked(topics, subject="alice")

    assert answer["readings"] == []
    told = [(fact["kind"], fact.get("cursor"), fact.get("code")) for fact in answer["facts"]]
    assert told == [
        ("subscribed", began, None),
        ("ended", await topics.cursor(NUMBERS), None),
        ("refused", None, "FORBIDDEN"),
    ]


async def test_the_gap_of_one_client_is_not_that_of_the_others(topics: TopicManager) -> None:
    alice = await started(topics, "alice")
    await topics.publish(NUMBERS, 1)
    with viewing(viewer("bob", "*")):
        bob = topics.subscribe(NUMBERS)
    bob.resume("1-0", or_live=True)
    await bob.start()

    def gaps(answer: dict[str, Any]) -> list[str]:
        return [fact["cursor"] for fact in answer["facts"] if fact["kind"] == "gap"]

    assert gaps(await asked(topics, subject="bob")) == ["1-0"]
    assert gaps(await asked(topics, subject="alice")) == []
    await alice.aclose()
    await bob.aclose()


async def test_an_event_is_decoded_once_for_all_filters(
    topics: TopicManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = (is_even, fails, lambda number: number > 1)
    streams = [await started(topics, "alice", where=where) for where in filters]
    cursor = await topics.publish(NUMBERS, 1)
    decode, decoded = Topic.decode, list[bytes]()

    def noted(topic: Topic[Any], payload: bytes) -> Any:
        decoded.append(payload)
        return decode(topic, payload)

    monkeypatch.setattr(Topic, "decode", noted)
    answer = await asked(topics, subject="alice", cursor=str(cursor))

    outcomes = sorted(reading["outcome"] for reading in answer["readings"])
    assert outcomes == ["filtered", "filtered", "passes"]
    assert decoded == [b"1"]
    for stream in streams:
        await stream.aclose()


async def test_no_fact_contains_a_payload(topics: TopicManager) -> None:
    stream = await started(topics, "alice")
    unreadable = await topics.publish("numbers", "hunter2")
    await topics.publish(NUMBERS, 1)
    await anext(stream)
    await stream.aclose()

    answer = await asked(topics, subject="alice", cursor=str(unreadable))

    assert "unreadable" in [fact["kind"] for fact in answer["facts"]]
    assert "hunter2" not in str(answer)


@pytest.mark.parametrize("seq", [0, 1, 7])
async def test_an_event_that_does_not_exist_is_not_found(topics: TopicManager, seq: int) -> None:
    assert await topics.event_at(NUMBERS, Cursor(1, seq)) is None


async def test_the_first_and_the_last_event_of_a_history_are_found(topics: TopicManager) -> None:
    first, last = await topics.publish(NUMBERS, 1), await topics.publish(NUMBERS, 2)

    for cursor in (first, last):
        event = await topics.event_at(NUMBERS, cursor)
        assert event is not None
        assert event.cursor == cursor


async def test_a_trace_follows_a_stream_of_its_own(topics: TopicManager) -> None:
    stream = await started(topics, "alice", where=is_even)
    assert await asked(topics, subject="alice", follow="t") == {"steps": [], "leftOut": 0}
    for number in (1, 2):
        await topics.publish(NUMBERS, number)
    await anext(stream)

    steps = (await asked(topics, subject="alice", follow="t"))["steps"]

    assert [step["kind"] for step in steps if "subject" in step] == ["filtered", "sent"]
    assert {step["kind"] for step in steps if "subject" not in step} == {"received", "published"}
    trace.live.follow("t", "alice", None).expires_at = 0
    trace.live.expire()
    await stream.aclose()
