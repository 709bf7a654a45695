"""Clients of a live list get a snapshot, each change after it, and a new snapshot after a gap."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gqlnotify import errors
from gqlnotify.testing import ControlledBroker, OperationFailed, connect
from tests.live_lists import TASKS, TASKS_LIVE, Fold, House, Task, folded, settings
from tests.servers import running
from tests.waiting import PATIENCE, wait_until


async def test_a_snapshot_comes_first_and_then_each_change(house: House, ann: str) -> None:
    async with connect(house.app, token=ann) as client:
        await house.put("1", "wash")
        stream = await client.subscribe(TASKS_LIVE)
        fold = await folded(stream, Fold())
        assert fold.rows == {"1": "wash"}

        await house.put("2", "dry")
        await house.delete("1")
        last = await house.put("2", "iron")

        assert (await folded(stream, fold, 3)).rows == house.titles() == {"2": "iron"}
        assert stream.cursor == last
        assert (fold.snapshots, house.loads) == (1, 1)


async def test_no_change_during_a_slow_load_is_missed(house: House, ann: str) -> None:
    async with connect(house.app, token=ann) as client:
        await house.put("1", "wash")
        house.may_load.clear()
        stream = client.subscribe(TASKS_LIVE)
        await wait_until(lambda: house.loads == 1)
        await house.put("1", "dry")
        await house.put("2", "iron")
        house.may_load.set()

        fold = await folded(stream, Fold(), 3)

    assert fold.rows == house.titles()


async def test_a_row_that_leaves_the_filter_is_removed(house: House, ann: str) -> None:
    async with connect(house.app, token=ann) as client:
        await house.put("1", "wash", "ann")
        stream = await client.subscribe(TASKS_LIVE, {"owner": "ann"})
        fold = await folded(stream, Fold())
        await house.put("1", "wash", "bob")

        removal = (await stream.next()).data["tasks"]["change"]

        assert removal == {"key": "1", "removed": True, "task": None}
        fold.take({"tasks": {"snapshot": None, "change": removal}})
        assert fold.rows == house.titles("ann") == {}


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_gap_brings_a_new_snapshot_in_the_same_operation(
    ann: str, broker: ControlledBroker, per_viewer: bool
) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(TASKS_LIVE)
        await house.put("1", "wash")
        fold = await folded(stream, Fold(), 2)
        async with broker.losing_live_events():
            await house.put("2", "dry")
            await broker.forget()
        await house.put("3", "iron")

        while fold.rows != house.titles():
            await folded(stream, fold)

        assert fold.snapshots == 2
        await house.put("3", "fold")
        assert (await folded(stream, fold)).rows == house.titles()


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_change_that_can_t_be_read_brings_a_snapshot(ann: str, per_viewer: bool) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(TASKS_LIVE)
        fold = await folded(stream, Fold())
        house.rows["1"] = Task(id="1", title="of another version")
        unreadable = await house.topics.publish_bytes(TASKS.name, b'{"another": "version"}')

        assert (await folded(stream, fold)).rows == house.titles()
        assert (fold.snapshots, stream.cursor) == (2, unreadable)
        await house.put("2", "dry")
        assert (await folded(stream, fold)).rows == house.titles()


async def test_many_changes_that_can_t_be_read_share_loads(house: House, ann: str) -> None:
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(TASKS_LIVE)
        fold = await folded(stream, Fold())
        for number in range(20):
            house.rows[str(number)] = Task(id=str(number), title="of another version")
            await house.topics.publish_bytes(TASKS.name, b'{"another": "version"}')

        assert (await folded(stream, fold, 20)).rows == house.titles()

    assert house.loads <= 4


async def test_a_change_that_can_t_be_read_is_an_error_if_the_list_can_t_either(
    house: House, ann: str
) -> None:
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(TASKS_LIVE)
        fold = await folded(stream, Fold())
        house.failures = [RuntimeError("no database")]
        await house.topics.publish_bytes(TASKS.name, b'{"another": "version"}')
        with pytest.raises(OperationFailed) as failed:
            await stream.next()
        assert failed.value.code == errors.EventUnreadable.code

        await house.put("2", "dry")
        assert (await folded(stream, fold)).rows == house.titles()


@pytest.mark.parametrize("with_cursors", [False, True])
@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_client_that_comes_back_in_time_gets_only_the_changes(
    ann: str, per_viewer: bool, with_cursors: bool
) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as other, connect(house.app, token=ann) as client:
        await other.subscribe(TASKS_LIVE)
        stream = await client.subscribe(TASKS_LIVE)
        fold = await folded(stream, Fold())
        last = await house.put("1", "wash")
        await folded(stream, fold)
        await wait_until(lambda: house.acknowledged >= last)
        await client.cut()
        await house.put("2", "dry")
        await client.reconnect(with_cursors=with_cursors)

        while fold.rows != house.titles():
            await folded(stream, fold)

    assert fold.snapshots == 1


@pytest.mark.parametrize("with_cursors", [False, True])
async def test_a_client_that_comes_back_too_late_gets_a_snapshot(
    house: House, ann: str, with_cursors: bool
) -> None:
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(TASKS_LIVE)
        fold = await folded(stream, Fold())
        await client.cut()
        for number in range(300):
            await house.put(str(number % 20), f"task {number}")
        await client.reconnect(with_cursors=with_cursors)

        while fold.rows != house.titles():
            await folded(stream, fold)

    assert fold.snapshots == 2


async def test_a_snapshot_is_not_older_than_what_the_client_had(ann: str) -> None:
    house = House(settings())
    async with connect(house.app, token=ann) as client:
        # So the server does not know that the client has the first snapshot.
        client.answers_pings = False
        stream = await client.subscribe(TASKS_LIVE)
        await folded(stream, Fold())
        await house.put("1", "wash")
        await folded(stream, Fold())
        await client.cut()
        await client.reconnect(with_cursors=False)

        assert (await folded(stream, Fold())).rows == {"1": "wash"}
        await stream.expect_nothing()


@pytest.mark.parametrize("with_cursors", [False, True])
@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_client_that_is_cut_before_its_snapshot_gets_it_when_it_comes_back(
    ann: str, with_cursors: bool, per_viewer: bool
) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as client:
        await house.put("1", "wash")
        house.may_load.clear()
        stream = client.subscribe(TASKS_LIVE)
        await wait_until(lambda: house.loads == 1 and stream.is_armed)
        await client.cut()
        house.may_load.set()
        await client.reconnect(with_cursors=with_cursors)

        assert (await folded(stream, Fold())).rows == {"1": "wash"}


async def test_an_expired_cursor_of_the_client_brings_a_snapshot(house: House, ann: str) -> None:
    async with connect(house.app, token=ann) as client:
        old = await house.put("1", "wash")
        for number in range(12):
            await house.put("2", f"dry {number}")

        stream = client.subscribe(TASKS_LIVE, after=old)

        assert (await folded(stream, Fold())).rows == house.titles()


@asynccontextmanager
async def event_source(
    http: httpx.AsyncClient, token: str, last_event_id: str | None = None
) -> AsyncIterator[AsyncIterator[str]]:
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {token}"}
    if last_event_id is not None:
        headers["last-event-id"] = last_event_id
    async with http.stream(
        "POST", "/graphql", json={"query": TASKS_LIVE}, headers=headers
    ) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        yield (line async for line in lines if line.startswith(("id:", "data:")))


@pytest.mark.processes
@pytest.mark.parametrize("per_viewer", [False, True])
async def test_an_event_source_gets_a_snapshot_and_resumes_after_it(
    ann: str, per_viewer: bool
) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with (
        running(house.app) as origin,
        httpx.AsyncClient(base_url=f"http://{origin}", timeout=PATIENCE) as http,
    ):
        await house.put("1", "wash")
        async with event_source(http, ann) as source:
            # Nothing says where it is before there is a snapshot.
            cursor, snapshot = (await anext(source)).removeprefix("id: "), await anext(source)
        await house.put("1", "dry")
        async with event_source(http, ann, cursor) as source:
            beginning, _, change = [await anext(source) for _ in range(3)]
        async with event_source(http, ann, "what is this") as source:
            _, unknown = [await anext(source) for _ in range(2)]

    assert '"snapshot":[{"id":"1","title":"wash"' in snapshot.replace(" ", "")
    assert beginning == f"id: {cursor}"
    assert '"change":{"key":"1"' in change.replace(" ", "")
    assert '"snapshot":[{"id":"1"' in unknown.replace(" ", "")
