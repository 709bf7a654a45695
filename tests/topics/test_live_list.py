"""A live list yields a snapshot, each change after it, and another snapshot after a gap."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify import Change, Cursor, LiveList, Snapshot, Topic, TopicManager, errors
from gqlnotify.auth import viewing
from gqlnotify.brokers import Deliver, MemoryBroker, OnPossibleGap
from gqlnotify.observability import trace
from tests.bad_brokers import UnreliableBroker, pause
from tests.streams import viewer
from tests.waiting import PATIENCE, wait_until


@dataclass(frozen=True)
class Stock:
    """How much there is of something."""

    name: str
    amount: int


STOCKS = Topic("stocks", Stock)


class Store:
    """A database of stocks, and their topic with a short history."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.topics = TopicManager(broker or MemoryBroker(length=3))
        self.rows: dict[str, Stock] = {}

    def load(self) -> list[Stock]:
        """Return all rows."""
        return list(self.rows.values())

    async def put(self, name: str, amount: int) -> None:
        """Write a row, and publish the change."""
        self.rows[name] = Stock(name, amount)
        await self.topics.publish(STOCKS, self.rows[name])

    def live(self, **options: Any) -> LiveList[Snapshot[Stock] | Change[Stock]]:
        """Return the live list of all stocks."""
        options.setdefault("load", self.load)
        return self.topics.live(STOCKS, key=lambda stock: stock.name, **options)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store()
    yield store
    await store.topics.close()


async def take(stream: Any, count: int) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(stream) for _ in range(count)]


def changed(name: str, amount: int) -> Change[Stock]:
    return Change(name, Stock(name, amount))


async def test_a_loop_gets_a_snapshot_and_then_the_changes(store: Store) -> None:
    await store.put("tea", 1)
    stream = store.live()

    (snapshot,) = await take(stream, 1)
    await store.put("tea", 2)

    assert snapshot == Snapshot([Stock("tea", 1)], snapshot.cursor)
    assert await take(stream, 1) == [changed("tea", 2)]
    assert stream.cursor == await store.topics.cursor(STOCKS)


async def test_a_list_that_begins_is_not_a_gap_for_those_who_look_for_one(store: Store) -> None:
    trace.ring.clear()

    await take(store.live(), 1)

    about = trace.ring.about(None, STOCKS.name)
    assert not [fact for fact in about if fact.kind is trace.Kind.GAP]


@pytest.mark.parametrize("kind", ["plain", "async", "generator"])
async def test_load_may_return_rows_in_several_ways(store: Store, kind: str) -> None:
    async def later() -> list[int]:
        return [1, 2]

    loads: dict[str, Callable[[], Any]] = {
        "plain": lambda: (1, 2),
        "async": later,
        "generator": lambda: (number for number in (1, 2)),
    }

    (snapshot,) = await take(store.live(load=loads[kind]), 1)

    assert snapshot.items == [1, 2]


async def test_load_may_know_its_cursor(store: Store) -> None:
    await store.put("tea", 1)
    cursor = await store.topics.cursor(STOCKS)

    async def load_while_others_write() -> Snapshot[str]:
        await store.put("tea", 2)
        return Snapshot(["its own"], cursor)

    stream = store.live(load=load_while_others_write)

    assert await take(stream, 2) == [Snapshot(["its own"], cursor), changed("tea", 2)]


async def test_a_change_during_the_load_comes_after_it(store: Store) -> None:
    async def load() -> list[Stock]:
        rows = store.load()
        await store.put("tea", 2)
        return rows

    snapshot, change = await take(store.live(load=load), 2)

    assert (snapshot.items, change) == ([], changed("tea", 2))


async def test_a_valid_cursor_needs_no_snapshot(store: Store) -> None:
    await store.put("tea", 1)
    cursor = await store.topics.cursor(STOCKS)
    await store.put("tea", 2)

    assert await take(store.live(after=cursor), 1) == [changed("tea", 2)]


async def test_an_expired_cursor_brings_a_snapshot(store: Store) -> None:
    await store.put("tea", 0)
    cursor = await store.topics.cursor(STOCKS)
    for amount in range(5):
        await store.put("tea", amount)

    (first,) = await take(store.live(after=cursor), 1)

    assert first == Snapshot([Stock("tea", 4)], first.cursor)


async def test_a_row_that_leaves_the_filter_is_removed(store: Store) -> None:
    stream = store.live(where=lambda stock: stock.amount > 0)
    await take(stream, 1)
    await store.put("tea", 1)
    await store.put("tea", 0)

    assert await take(stream, 1) == [Change("tea", None, removed=True)]
    assert stream.conflated == 1


async def test_what_does_not_concern_the_list_is_not_sent_at_all(store: Store) -> None:
    stream = store.live(
        concerns=lambda stock: stock.name != "secret", where=lambda stock: stock.amount > 0
    )
    await take(stream, 1)
    await store.put("secret", 0)
    await store.put("tea", 1)

    assert await take(stream, 1) == [changed("tea", 1)]


async def test_a_view_with_a_filter_must_say_what_it_may_show(store: Store) -> None:
    with pytest.raises(errors.InternalError, match="concerns"):
        store.live(view="stocks.tea", where=lambda stock: stock.name == "tea")


async def test_the_right_to_the_topic_is_required(store: Store) -> None:
    with viewing(viewer(subscribe=["others"])):
        stream = store.live()

    with pytest.raises(errors.Forbidden):
        await anext(stream)


@pytest.mark.parametrize("name", ["where", "key", "concerns"])
async def test_a_coroutine_function_is_refused(store: Store, name: str) -> None:
    async def later(_stock: Stock) -> bool:
        return True

    options: dict[str, Any] = {"load": store.load, "key": lambda stock: stock.name, name: later}
    with pytest.raises(errors.InternalError, match=name):
        store.topics.live(STOCKS, **options)


@pytest.mark.parametrize("loaded", [None, "rows", {"tea": 1}])
async def test_a_load_that_returns_no_rows_is_a_mistake(store: Store, loaded: object) -> None:
    with pytest.raises(errors.InternalError, match="must return its rows"):
        await anext(store.live(load=lambda: loaded))


async def test_a_loop_gets_the_error_of_load_and_may_go_on(store: Store) -> None:
    failures = [ValueError("no database")]

    def load() -> list[Stock]:
        if failures:
            raise failures.pop()
        return store.load()

    stream = store.live(load=load)
    with pytest.raises(ValueError, match="no database"):
        await anext(stream)

    (snapshot,) = await take(stream, 1)
    assert snapshot.items == []


async def test_map_gets_snapshots_and_changes_with_their_cursors(store: Store) -> None:
    stream = store.live().map(lambda each, event: (type(each).__name__, event.cursor))
    (first,) = await take(stream, 1)
    await store.put("tea", 1)
    (second,) = await take(stream, 1)

    assert (first[0], second) == ("Snapshot", ("Change", stream.cursor))


async def test_a_closed_list_ends_its_loop(store: Store) -> None:
    stream = store.live()
    await stream.start()
    await stream.aclose()

    assert [each async for each in stream] == []


# it equals the database once it is quiet


class Forgetful(UnreliableBroker):
    """A broker with an unreliable live path that may lose its histories."""

    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        self._on_possible_gap = on_possible_gap
        await super().start(deliver, on_possible_gap)

    def forget(self) -> None:
        """Begin every history again."""
        self._histories.clear()

    def notice(self) -> None:
        """Let the process look for what it has missed."""
        self._on_possible_gap(STOCKS.name)


class Follower:
    """Folds a live list. It resumes after a cut, or begins again."""

    def __init__(self, store: Store, turns: Iterator[int]) -> None:
        self.rows: dict[Any, Stock] = {}
        self._store = store
        self._turns = turns
        self._cursor: Cursor | None = None
        self._following = asyncio.create_task(self._follow())

    def cut(self, *, resumes: bool) -> None:
        """Cut the stream, wherever it is, and follow another one."""
        self._following.cancel()
        if not resumes:
            self._cursor = None
        self._following = asyncio.create_task(self._follow())

    async def _load(self) -> list[Stock]:
        await pause(next(self._turns))
        rows = [stock for stock in self._store.rows.values() if stock.amount > 0]
        await pause(next(self._turns))
        return rows

    async def _follow(self) -> None:
        stream = self._store.live(
            load=self._load, where=lambda stock: stock.amount > 0, after=self._cursor
        )
        async for each in stream:
            match each:
                case Snapshot(items):
                    self.rows = {stock.name: stock for stock in items}
                case Change(key, None):
                    self.rows.pop(key, None)
                case Change(key, value):
                    assert value is not None
                    self.rows[key] = value
            self._cursor = stream.cursor
            await pause(next(self._turns))


puts = st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(0, 2))
waits = st.tuples(st.just("wait"), st.integers(0, 30), st.none())
cuts = st.tuples(st.just("cut"), st.integers(0, 2), st.booleans())
losses = st.tuples(st.just("forget"), st.none(), st.none())
# A loss hides what was wrong before it, so it is rare.
whats = st.one_of(*[puts] * 6, *[waits] * 3, cuts, losses)


@given(
    happens=st.lists(whats, min_size=10, max_size=40),
    fates=st.lists(st.lists(st.integers(0, 12), max_size=2), max_size=40),
    turns=st.lists(st.integers(0, 8), min_size=1, max_size=7),
    answer_turns=st.integers(0, 4),
)
@pytest.mark.usefixtures("small_buffers", "no_linger")
def test_a_list_equals_the_database_once_it_is_quiet(
    happens: list[tuple[str, Any, Any]], fates: list[list[int]], turns: list[int], answer_turns: int
) -> None:
    async def scenario() -> None:
        broker = Forgetful(fates, length=4, answer_turns=answer_turns)
        store, pauses = Store(broker), cycle(turns)
        await store.topics.start()
        followers = [Follower(store, pauses) for _ in range(3)]
        for what, first, second in happens:
            match what:
                case "put":
                    store.rows[first] = Stock(first, second)
                    await pause(next(pauses))
                    await store.topics.publish(STOCKS, store.rows[first])
                case "cut":
                    followers[first].cut(resumes=second)
                case "forget":
                    broker.forget()
                case "wait":
                    await pause(first)
        broker.notice()
        rows = {name: stock for name, stock in store.rows.items() if stock.amount > 0}
        await wait_until(lambda: all(follower.rows == rows for follower in followers))
        await store.topics.close()

    asyncio.run(scenario())
