"""A snapshot is loaded once for all who need it, and an error of one client stops no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from strawberry.extensions import SchemaExtension

from gqlnotify import Cursor, Snapshot, current_principal, errors
from gqlnotify.execution import EncodedResult
from gqlnotify.execution.results import loses_a_change, loses_a_list
from gqlnotify.execution.snapshots import Run
from gqlnotify.testing import ControlledBroker, OperationFailed, Tokens, connect
from gqlnotify.topics import live_list
from tests.live_lists import PARTS, TASKS_LIVE, Fold, House, Task, clients, folded, settings
from tests.waiting import wait_until

OTHER = "subscription Other ($owner: String) { tasks(owner: $owner) { ...parts } }" + PARTS
SHOUTED = "subscription { tasks { snapshot { id shout } change { key } } }"


async def test_all_who_come_in_the_same_moment_share_one_load(house: House, ann: str) -> None:
    await_load = house.may_load
    async with clients(house, ann, 6) as all_of_them:
        await house.put("1", "wash")
        await_load.clear()
        streams = [client.subscribe(TASKS_LIVE) for client in all_of_them[:4]]
        # Another document needs the same rows.
        streams += [client.subscribe(OTHER) for client in all_of_them[4:]]
        await wait_until(lambda: house.loads > 0 and all(each.is_armed for each in streams))
        await_load.set()

        for stream in streams:
            assert (await folded(stream, Fold())).rows == {"1": "wash"}

    assert house.loads == 1


async def test_those_who_come_a_moment_later_get_the_same_snapshot_and_the_changes_since(
    house: House, ann: str
) -> None:
    async with clients(house, ann, 2) as (first, second):
        await house.put("1", "wash")
        await folded(first.subscribe(TASKS_LIVE), Fold())
        await house.put("1", "dry")

        late = await folded(second.subscribe(TASKS_LIVE), Fold(), 2)

    assert late.rows == {"1": "dry"}
    assert house.loads == 1


async def test_a_client_that_leaves_does_not_end_the_load_of_others(house: House, ann: str) -> None:
    async with clients(house, ann, 2) as (first, second):
        await house.put("1", "wash")
        house.may_load.clear()
        leaving = client_of_a_load = first.subscribe(TASKS_LIVE)
        await wait_until(lambda: house.loads == 1)
        staying = await second.subscribe(TASKS_LIVE)
        await leaving.stop()
        house.may_load.set()

        assert (await folded(staying, Fold())).rows == {"1": "wash"}

    assert client_of_a_load.is_over
    assert house.loads == 1


async def test_a_load_that_no_client_waits_for_is_cancelled(house: House, ann: str) -> None:
    async with connect(house.app, token=ann) as client:
        house.may_load.clear()
        stream = client.subscribe(TASKS_LIVE)
        await wait_until(lambda: house.loads == 1)
        await stream.stop()
        house.may_load.set()

        await folded(client.subscribe(TASKS_LIVE), Fold())

    assert house.loads == 2


async def test_a_client_does_not_join_an_execution_that_is_being_cancelled() -> None:
    loading: asyncio.Future[Snapshot[int]] = asyncio.get_running_loop().create_future()
    loading.set_result(Snapshot([], Cursor(1, 1)))
    run = Run(Cursor(1, 1), loading)
    encoded, may_end = EncodedResult(Cursor(1, 1), None), asyncio.Event()

    async def encode() -> EncodedResult:
        await may_end.wait()
        return encoded

    leaving = asyncio.create_task(run.encoded("a document", lambda: asyncio.create_task(encode())))
    await asyncio.sleep(0)
    leaving.cancel()
    coming = asyncio.create_task(run.encoded("a document", lambda: asyncio.create_task(encode())))
    # The former execution is cancelled before this one may end.
    await asyncio.sleep(0)
    may_end.set()

    assert await coming is encoded
    assert leaving.cancelled()


async def test_a_shared_load_has_no_viewer(
    house: House, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "load", lambda _owner: [current_principal()])
    async with connect(house.app, token=ann) as client:
        with pytest.raises(OperationFailed) as failed:
            await client.subscribe(TASKS_LIVE).next()

    assert failed.value.code == errors.NoViewer.code


async def test_a_load_for_each_viewer_runs_as_that_viewer(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(settings(), per_viewer=True)

    def load(_owner: str | None) -> list[Task]:
        return [Task(id="1", title=current_principal().subject)]

    monkeypatch.setattr(house, "load", load)
    for subject in ("ann", "bob"):
        async with connect(house.app, token=tokens(subject, subscribe="*")) as client:
            fold = await folded(client.subscribe(TASKS_LIVE), Fold())
        assert fold.rows == {"1": subject}


async def test_a_load_is_shared_within_its_scope_only(tokens: Tokens) -> None:
    house = House(settings(), scope_of=lambda: current_principal().subject[0])
    house.may_load.clear()
    async with AsyncExitStack() as stack:
        for subject in ("ann", "adam", "bob"):
            token = tokens(subject, subscribe="*")
            client = await stack.enter_async_context(connect(house.app, token=token))
            stream = client.subscribe(TASKS_LIVE)
        await wait_until(lambda: house.loads == 2)
        house.may_load.set()
        await folded(stream, Fold())

    assert house.loads == 2


async def test_a_large_snapshot_comes_whole(house: House, ann: str) -> None:
    for number in range(1500):
        house.rows[str(number)] = Task(id=str(number), title="x" * 2000)
    async with clients(house, ann, 3) as some:
        for stream in [client.subscribe(TASKS_LIVE) for client in some]:
            assert (await folded(stream, Fold())).rows == house.titles()

    assert house.loads == 1


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_topics_that_close_during_a_load_end_the_operation_without_an_error(
    ann: str, per_viewer: bool
) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as client:
        house.may_load.clear()
        stream = client.subscribe(TASKS_LIVE)
        await wait_until(lambda: house.loads == 1)
        closing = asyncio.create_task(house.topics.close())
        await asyncio.sleep(0)
        house.may_load.set()
        await closing

        results = [result.data async for result in stream]

    assert stream.is_over
    assert all(each["tasks"]["snapshot"] == [] for each in results)


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_topics_that_close_before_the_next_attempt_cause_no_load(
    ann: str, per_viewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.1, 0.1))
    house = House(settings(), per_viewer=per_viewer)
    house.failures = [RuntimeError("no database")]
    async with connect(house.app, token=ann) as client:
        stream = client.subscribe(TASKS_LIVE)
        with pytest.raises(OperationFailed):
            await stream.next()
        await house.topics.close()

        assert [each async for each in stream] == []

    assert house.loads == 1


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_load_that_fails_is_told_and_tried_again(
    ann: str, per_viewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.01, 0.01))
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as client:
        await house.put("1", "wash")
        house.failures = [RuntimeError("a secret of the house"), errors.BrokerUnavailable("away")]
        stream = client.subscribe(TASKS_LIVE)

        with pytest.raises(OperationFailed) as masked:
            await stream.next()
        with pytest.raises(OperationFailed) as unavailable:
            await stream.next()

        assert masked.value.code == "INTERNAL_SERVER_ERROR"
        assert "secret" not in str(masked.value)
        assert masked.value.errors[0]["path"] == ["tasks"]
        assert unavailable.value.code == errors.BrokerUnavailable.code
        assert stream.cursor is None
        assert (await folded(stream, Fold())).rows == {"1": "wash"}


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_load_that_does_not_end_is_told_and_tried_again(
    ann: str, per_viewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.01, 0.01))
    house = House(settings(execution_timeout=0.05), per_viewer=per_viewer)
    house.may_load.clear()
    async with connect(house.app, token=ann) as client:
        stream = client.subscribe(TASKS_LIVE)

        with pytest.raises(OperationFailed) as failed:
            await stream.next()
        house.may_load.set()

        assert failed.value.code == errors.ExecutionTimeout.code
        assert (await stream.next()).data["tasks"]["snapshot"] == []


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_load_whose_cursor_has_expired_is_not_called_without_a_pause(
    ann: str, broker: ControlledBroker, per_viewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as client:
        lost = await house.put("1", "wash")
        await broker.forget()
        await house.put("1", "dry")

        async def load(_owner: str | None) -> Snapshot[Task]:
            house.loads += 1
            return Snapshot([*house.rows.values()], lost)

        monkeypatch.setattr(house, "load", load)
        stream = client.subscribe(TASKS_LIVE)
        await stream.take(2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await stream.next()

    assert house.loads == 2


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_load_that_refuses_the_client_ends_the_operation(
    ann: str, per_viewer: bool
) -> None:
    house = House(settings(), per_viewer=per_viewer)
    async with connect(house.app, token=ann) as client:
        house.failures = [errors.BadUserInput("no such list")]
        stream = client.subscribe(TASKS_LIVE)

        with pytest.raises(OperationFailed, match="no such list"):
            await stream.next()
        assert stream.is_over


async def test_extensions_run_around_a_snapshot_and_its_errors(
    ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.01, 0.01))
    results: list[Any] = []

    class Watch(SchemaExtension):
        async def on_operation(self) -> AsyncIterator[None]:
            await asyncio.sleep(0)
            yield
            if self.execution_context.result is not None:
                results.append(self.execution_context.result)

    house = House(settings(), extensions=[Watch])
    async with connect(house.app, token=ann) as client:
        await house.put("1", "wash")
        house.failures = [RuntimeError("a secret of the house")]
        stream = client.subscribe(TASKS_LIVE)
        with pytest.raises(OperationFailed) as masked:
            await stream.next()
        assert "secret" not in str(masked.value)

        assert (await folded(stream, Fold())).rows == {"1": "wash"}

    assert results


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_snapshot_whose_rows_are_lost_to_an_error_is_tried_again(
    ann: str, per_viewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.01, 0.01))
    house = House(settings(), per_viewer=per_viewer)
    async with clients(house, ann, 2) as (first, second):
        await house.put("1", "unspeakable")
        failing = first.subscribe(SHOUTED)
        with pytest.raises(OperationFailed) as failed:
            await failing.next()
        assert failed.value.errors[0]["path"] == ["tasks", "snapshot", 0, "shout"]
        # Another document of the same rows is not affected.
        assert (await folded(second.subscribe(TASKS_LIVE), Fold())).rows == house.titles()
        house.rows["1"].title = "say"

        result = None
        while result is None:
            try:
                result = await failing.next()
            except OperationFailed:
                continue

    assert result.data["tasks"]["snapshot"] == [{"id": "1", "shout": "SAY"}]


@pytest.mark.parametrize("field", ["shout", "slowShout"])
@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_change_that_is_lost_to_an_error_brings_a_snapshot(
    ann: str, per_viewer: bool, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.01, 0.01))
    house = House(settings(), per_viewer=per_viewer)
    task = f"{{ shout: {field} }}"
    document = f"subscription {{ tasks {{ snapshot {task} change {{ task {task} }} }} }}"
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(document)
        assert (await stream.next()).data["tasks"]["snapshot"] == []
        # The database has another title by the time that the list is loaded.
        await house.put("1", "unspeakable")
        house.rows["1"] = house.task("1", "wash")

        if per_viewer:
            with pytest.raises(OperationFailed, match="a secret"):
                await stream.next()
        assert (await stream.next()).data["tasks"]["snapshot"] == [{"shout": "WASH"}]
        await house.put("1", "dry")
        assert (await stream.next()).data["tasks"]["change"] == {"task": {"shout": "DRY"}}


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_change_whose_resolver_does_not_end_brings_a_snapshot(
    ann: str, per_viewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.01, 0.01))
    house = House(settings(execution_timeout=0.1), per_viewer=per_viewer)
    task = "{ shout: slowShout }"
    document = f"subscription {{ tasks {{ snapshot {task} change {{ task {task} }} }} }}"
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(document)
        assert (await stream.next()).data["tasks"]["snapshot"] == []
        await house.put("1", "endless")
        house.rows["1"] = house.task("1", "wash")

        if per_viewer:
            with pytest.raises(OperationFailed) as failed:
                await stream.next()
            assert failed.value.code == errors.ExecutionTimeout.code
        assert (await stream.next()).data["tasks"]["snapshot"] == [{"shout": "WASH"}]
        await house.put("1", "dry")
        assert (await stream.next()).data["tasks"]["change"] == {"task": {"shout": "DRY"}}


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_change_that_can_t_be_shown_is_told(
    ann: str, per_viewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_list, "_RETRY_SECONDS", (0.01, 0.01))
    house = House(settings(), per_viewer=per_viewer)
    document = "subscription { tasks { snapshot { shout } change { task { shout } } } }"
    async with connect(house.app, token=ann) as client:
        stream = await client.subscribe(document)
        await stream.next()
        await house.put("1", "unspeakable")

        with pytest.raises(OperationFailed) as failed:
            await stream.next()

    assert failed.value.errors[0]["path"] == ["tasks", "change", "task", "shout"]


@pytest.mark.parametrize(
    ("data", "path", "is_lost"),
    [
        ({"tasks": None}, ["tasks"], True),
        ({"tasks": None}, ["tasks", "change", "task", "shout"], True),
        ({"tasks": {"change": {"task": None}}}, ["tasks", "change", "task", "shout"], True),
        (
            {"tasks": {"change": {"task": {"shout": None}}}},
            ["tasks", "change", "task", "shout"],
            False,
        ),
        (
            {"tasks": {"change": {"task": {"tags": [None]}}}},
            ["tasks", "change", "task", "tags", 0],
            False,
        ),
    ],
)
def test_an_error_in_one_field_does_not_lose_the_change(
    data: Any, path: list[str | int], is_lost: bool
) -> None:
    assert loses_a_change(data, path) is is_lost


@pytest.mark.parametrize(
    ("data", "path", "is_lost"),
    [
        (None, ["tasks", "snapshot", 0, "shout"], True),
        ({"tasks": None}, ["tasks"], True),
        ({"tasks": {"snapshot": None}}, ["tasks", "snapshot", 0, "shout"], True),
        ({"tasks": {"snapshot": None}}, ["tasks", "snapshot"], True),
        ({"tasks": {"snapshot": [None]}}, ["tasks", "snapshot", 0, "shout"], False),
        ({"tasks": {"snapshot": [{"shout": None}]}}, ["tasks", "snapshot", 0, "shout"], False),
    ],
)
def test_an_error_in_one_row_does_not_lose_the_list(
    data: dict[str, Any] | None, path: list[str | int], is_lost: bool
) -> None:
    assert loses_a_list(data, path) is is_lost
