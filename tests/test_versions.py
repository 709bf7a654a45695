"""What subscribers of two versions get while both run on one Redis."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.raw import Socket, open_socket
from tests.servers import serving

pytestmark = pytest.mark.processes

TASKS = "subscription { tasks { id status } }"


async def published(socket: Socket, id_: int, status: str) -> str:
    document = f'mutation {{ publish(id: {id_}, value: "{status}") }}'
    cursor: str = (await socket.query(document))["publish"]
    return cursor


async def subscribed(socket: Socket, after: str) -> None:
    await socket.init()
    await socket.subscribe("tasks", TASKS, extensions={"after": after})


def assert_unreadable(result: dict[str, Any], cursor: str) -> None:
    assert (result["data"], result["extensions"]) == (None, {"cursor": cursor})
    [error] = result["errors"]
    assert error["extensions"] == {"code": "EVENT_UNREADABLE", "cursor": cursor}


async def test_each_version_skips_events_that_only_the_other_can_read(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKS_TOPIC", f"tasks-{uuid4()}")
    with (
        serving("tests.versions:old", tmp_path, broker_url=redis_url) as old,
        serving("tests.versions:new", tmp_path, broker_url=redis_url) as new,
    ):
        async with (
            open_socket(old.ws) as at_old,
            open_socket(new.ws) as at_new,
            open_socket(old.ws) as by_old,
            open_socket(new.ws) as by_new,
        ):
            await by_old.init()
            await by_new.init()
            before = (await by_old.query("{ cursor }"))["cursor"]
            await subscribed(at_old, before)
            await subscribed(at_new, before)
            by_the_old = await published(by_old, 1, "done")
            by_the_new = await published(by_new, 2, "archived")
            await published(by_new, 3, "done")

            results = [await at_old.next("tasks") for _ in range(3)]
            assert results[0]["data"] == {"tasks": {"id": 1, "status": "DONE"}}
            assert_unreadable(results[1], by_the_new)
            assert results[2]["data"] == {"tasks": {"id": 3, "status": "DONE"}}

            results = [await at_new.next("tasks") for _ in range(3)]
            assert_unreadable(results[0], by_the_old)
            assert results[1]["data"] == {"tasks": {"id": 2, "status": "ARCHIVED"}}
            assert results[2]["data"] == {"tasks": {"id": 3, "status": "DONE"}}

        # After a restart or a lost connection, the cursor of an unreadable event is valid.
        async with open_socket(old.ws) as again:
            await subscribed(again, by_the_new)
            assert (await again.next("tasks"))["data"]["tasks"]["id"] == 3
        assert old.log.count("can't be read") == new.log.count("can't be read") == 1
        assert "status enum" in old.log
        assert "owner missing" in new.log
