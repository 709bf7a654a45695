"""Promise 5: an event exists if and only if the change was committed, whenever a process dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.schema.client import PATIENCE, SECRET, Client
from tests.schema.conftest import until

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def process(
    database_url: str, socket: Path, *, crash_at: str | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        "GQLNOTIFY_JWT_SECRET": SECRET,
        "GQLNOTIFY_DATABASE_URL": database_url,
        "GQLNOTIFY_BROKER_URL": "memory://",
        **({} if crash_at is None else {"CRASH_AT": crash_at}),
    }
    arguments = ["--factory", "--uds", str(socket), "--app-dir", str(ROOT), "--no-access-log"]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "tests.schema.crashing:build", *arguments, env=environment
    )
    try:
        await until(lambda: server.returncode is not None or listens(socket))
        yield server
    finally:
        if server.returncode is None:
            server.terminate()
        async with asyncio.timeout(PATIENCE):
            await server.wait()


async def listens(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.mark.parametrize(
    ("database_url", "crash_at", "survivors"),
    [
        ("sqlite", "before the commit", [("one", 1), ("two", 1)]),
        ("sqlite", "after the commit", [("one", 1), ("two", 1), ("one, changed", 2)]),
        ("sqlite", "before a publish", [("one", 1), ("two", 1), ("one, changed", 2)]),
        ("sqlite", "after a publish", [("one", 1), ("two", 1), ("one, changed", 2)]),
        ("sqlite", "before the delete commits", [("one", 1), ("two", 1), ("one, changed", 2)]),
        ("postgresql", "before the commit", [("one", 1), ("two", 1)]),
        ("postgresql", "before the delete commits", [("one", 1), ("two", 1), ("one, changed", 2)]),
    ],
    indirect=["database_url"],
)
async def test_after_a_kill_every_committed_change_has_one_event_and_nothing_else_has(
    database_url: str, socket: Path, crash_at: str, survivors: list[tuple[str, int]]
) -> None:
    client = Client(socket)
    async with process(database_url, socket, crash_at=crash_at) as server:
        old_cursor = (await client.data("tasks"))["eventCursor"]
        # The last change meets the crash, or is answered just before it.
        with suppress(httpx.TransportError):
            task = await client.create("one")
            await client.create("two")
            await client.update(task["id"], title="one, changed")
        async with asyncio.timeout(PATIENCE):
            assert await server.wait() == -signal.SIGKILL

    async with process(database_url, socket):
        page = await client.data("tasks")
        epoch, _ = page["eventCursor"].split("-")
        async with client.stream("taskEvents", {"after": f"{epoch}-0"}) as stream:
            # Events come in the order of the outbox: when this one is here, all others are.
            await client.create("the end")
            events = [await stream.event()]
            while events[-1]["task"]["title"] != "the end":
                events.append(await stream.event())
        tasks = [event["task"] for event in events[:-1]]
        assert [(task["title"], task["version"]) for task in tasks] == survivors
        latest = {task["id"]: task for task in tasks}
        assert {edge["node"]["id"]: edge["node"] for edge in page["edges"]} == latest

        async with client.stream("taskEvents", {"after": old_cursor}) as stream:
            assert (await stream.error())["extensions"]["code"] == "CURSOR_EXPIRED"
