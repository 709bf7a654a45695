"""The npm client graphql-sse, in both of its modes."""

import asyncio
import json
from typing import Any

import pytest

from gqlnotify import Settings
from gqlnotify.topics.resumption import Resumption
from tests.applications import ALL_PROTOCOLS, application
from tests.e2e.conftest import SECRET
from tests.e2e.cut_streams import CutStreams
from tests.e2e.test_compression import program
from tests.e2e.tokens import token
from tests.message_app import MESSAGE_TEXTS, MESSAGES, MessageApp
from tests.servers import CLIENTS, patience, running
from tests.waiting import wait_until

TABS = 12


@pytest.mark.processes
async def test_distinct_connections_resume_after_their_cursors(message_app: MessageApp) -> None:
    settings = Settings(jwt_secret=SECRET)  # type: ignore[arg-type]
    router = message_app.router(settings=settings, subscription_protocols=ALL_PROTOCOLS)
    app = CutStreams(application(router))

    def subscribed() -> bool:
        topic = message_app.topics.live_topics.by_name.get(MESSAGES.name)
        return topic is not None and len(topic.subscribers) == TABS

    async with patience(), running(app) as origin:
        options = {
            "url": f"http://{origin}/graphql",
            "token": token(),
            "query": MESSAGE_TEXTS,
            "subscriptions": TABS,
            "singleConnection": False,
        }
        async with program("node", str(CLIENTS / "sse.mjs"), json.dumps(options)) as node:
            for text in ("first", "second"):
                await wait_until(subscribed)
                await message_app.say(text)
                await expect(node, text)
                app.cut()
                await message_app.say(f"missed after {text}")
                await expect(node, f"missed after {text}")


@pytest.mark.processes
async def test_an_unchanged_client_with_a_single_connection_resumes(
    message_app: MessageApp,
) -> None:
    settings = Settings(jwt_secret=SECRET, ack_interval=0.05)  # type: ignore[arg-type]
    router = message_app.router(settings=settings, subscription_protocols=ALL_PROTOCOLS)
    app = CutStreams(application(router))
    state = router._gqlnotify

    def resumptions() -> list[Resumption]:
        reserved = state.reservations._by_token.values()
        found = [each.resumption for one in reserved for each in one._operations.values()]
        return [each for each in found if each is not None and each.runs]

    async with patience(), running(app) as origin:
        options = {
            "url": f"http://{origin}/graphql",
            "token": token(),
            "query": MESSAGE_TEXTS,
            "subscriptions": TABS,
            "singleConnection": True,
            "unchanged": True,
        }
        async with program("node", str(CLIENTS / "sse.mjs"), json.dumps(options)) as node:
            await wait_until(lambda: len(resumptions()) == TABS)
            # Only at first: after a cut this client reserves a stream for each subscription.
            assert state.connection_limits.connections == 1
            app.cut()
            await message_app.say("before the first event")
            await expect(node, "before the first event")
            cursor = await message_app.say("first")
            await expect(node, "first")
            await wait_until(
                lambda: [each.acknowledged for each in resumptions()] == [cursor] * TABS
            )
            app.cut()
            await message_app.say("missed")
            await expect(node, "missed")


async def expect(node: asyncio.subprocess.Process, text: str) -> None:
    """Expect that each subscription gets this message next, and once."""
    assert node.stdout is not None
    got: list[Any] = [json.loads(await node.stdout.readline()) for _ in range(TABS)]
    assert sorted(each["number"] for each in got) == list(range(TABS))
    assert {each["data"]["messages"]["text"] for each in got} == {text}
