"""Presence over two real server processes: one is deployed, and then killed."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gqlnotify import Present, Settings, Topic, TopicManager
from gqlnotify.topics.local_presence import TTL
from gqlnotify.topics.presence import PresenceStream
from tests.e2e.conftest import SECRET
from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.servers import DRAINING_UVICORN, Server, patience, serving

pytestmark = pytest.mark.processes

ROOM = Topic("rooms.red", object, presence=True)
MESSAGES = 'subscription { messages(room: "red") { text } }'
# From the moment at which Redis appends an event to the one at which a follower has it.
LATE_SECONDS = 2.0


@asynccontextmanager
async def member(server: Server, subject: str) -> AsyncIterator[Socket]:
    async with open_socket(server.ws) as socket:
        await socket.init({"token": token(subject)})
        await socket.subscribe("messages", MESSAGES)
        yield socket


async def news(people: PresenceStream) -> str:
    async with patience():
        each = await anext(people)
    if isinstance(each, Present):
        return f"present: {len(each.members)}"
    return f"{each.member.subject} {type(each).__name__.lower()}"


async def test_a_deploy_announces_nothing_and_those_at_a_killed_process_leave_in_time(
    tmp_path: Path, redis_url: str
) -> None:
    settings: dict[str, Any] = {
        "broker_url": redis_url,
        "broker_prefix": uuid4().hex,
        "presence_grace": 8,
    }
    serve = partial(
        serving, "schema.app:app", program=DRAINING_UVICORN, jwt_secret=SECRET, drain_window=0
    )
    for name in "ab":
        (tmp_path / name).mkdir()
    topics = TopicManager(settings=Settings(**settings))
    people = topics.presence(ROOM)
    with serve(tmp_path / "a", **settings) as a, serve(tmp_path / "b", **settings) as b:
        async with AsyncExitStack() as stack, topics.held_open():
            assert await news(people) == "present: 0"
            tabs = [await stack.enter_async_context(member(a, "alice")) for _ in range(3)]
            assert await news(people) == "alice joined"

            stopping = asyncio.create_task(asyncio.to_thread(a.stop))
            for tab in tabs:
                await tab.connection.wait_closed()
            await stack.enter_async_context(member(b, "alice"))
            await stopping
            await stack.enter_async_context(member(b, "bob"))
            assert await news(people) == "bob joined"

            b.stop(signal.SIGKILL)
            killed = time.monotonic()
            assert {await news(people), await news(people)} == {"alice left", "bob left"}
            assert time.monotonic() - killed < TTL + LATE_SECONDS
            await people.aclose()
