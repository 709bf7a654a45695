"""Time that a test moves."""

import asyncio
import time

import pytest

from gqlnotify import clock as library_clock
from gqlnotify.testing import Clock, Disconnected, OperationFailed, Tokens, connect
from tests.testing.app import MESSAGES, SETTINGS, Message, app, topics

TEXTS = "subscription { messages { text } }"


async def test_timers_run_in_order_and_at_their_own_time(ann: str, clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    ran: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ran.append((name, round(loop.time() - began)))

    async with connect(app, token=ann), asyncio.TaskGroup() as group:
        began, began_really = loop.time(), time.monotonic()
        for name, seconds in (("late", 3000.0), ("soon", 10.0)):
            group.create_task(wait(name, seconds))
        await asyncio.sleep(0)
        await clock.advance(3600)

    assert ran == [("soon", 10), ("late", 3000)]
    assert time.monotonic() - began_really < 60


async def test_a_token_ends_when_its_time_has_come(tokens: Tokens, clock: Clock) -> None:
    async with connect(app, token=tokens("ann", lifetime=60)) as client:
        await clock.advance(59)
        await client.heard()
        await clock.advance(1)
        assert (await client.closed()).reason == "The token has expired"
        with pytest.raises(Disconnected, match="expired"):
            await client.reconnect()
        await client.reconnect(tokens("ann"))


async def test_a_history_forgets_what_is_too_old(tokens: Tokens, clock: Clock) -> None:
    async with connect(app, token=tokens("ann", subscribe="*", lifetime=86_400)) as client:
        cursor, _ = [
            await topics.publish(MESSAGES, Message(author="ann", text=text)) for text in "ab"
        ]
        await clock.advance(SETTINGS.history_seconds + 1)
        with pytest.raises(OperationFailed) as refused:
            await anext(client.subscribe(TEXTS, after=cursor))
    assert refused.value.code == "CURSOR_EXPIRED"


async def test_the_position_of_a_client_is_forgotten_when_it_stays_away(
    tokens: Tokens, clock: Clock
) -> None:
    token = tokens("ann", subscribe="*", lifetime=86_400)
    async with connect(app, token=token) as client:
        messages = await client.subscribe(TEXTS)
        await client.cut()
        await topics.publish(MESSAGES, Message(author="ann", text="missed"))
        await clock.advance(SETTINGS.auto_resume_seconds + 1)
        await client.reconnect()
        await messages.expect_nothing()


async def test_a_silent_peer_is_found_dead(ann: str, clock: Clock) -> None:
    async with connect(app, token=ann) as client:
        client.answers_pings = False
        await clock.advance(SETTINGS.ping_interval + SETTINGS.ping_timeout + 1)
        assert (await client.closed()).reason == "No pong in time"


def test_the_real_time_is_back_after_each_test() -> None:
    assert abs(library_clock.now() - time.time()) < 30


def test_only_asyncios_own_loop_can_be_moved() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        with pytest.raises(RuntimeError, match="take asyncio's default policy"):
            loop.run_until_complete(Clock().advance(1))
    finally:
        loop.close()


async def test_time_does_not_go_back(clock: Clock) -> None:
    with pytest.raises(ValueError, match="Time does not go back"):
        await clock.advance(-1)
