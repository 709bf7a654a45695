"""With Sentinel: a failover while subscribers listen and events are published."""

import asyncio
from pathlib import Path

import pytest

from gqlnotify.errors import BrokerUnavailable
from gqlnotify.event import Cursor
from tests.brokers.redis.support import ALL, listening, new_topic, numbers, refusal
from tests.ports import HOST, refusing_port
from tests.redis_servers import Sentinel, sentinel
from tests.waiting import wait_until


@pytest.mark.parametrize("kill", [False, True], ids=["asked", "killed"])
async def test_a_failover_causes_no_silent_gap(redis_program: Path, kill: bool) -> None:
    with sentinel(redis_program) as watched:
        async with numbers(watched.url, topic="x", length=100_000) as stream:
            early = await stream.reader()
            cursors = [await stream.publish(0)]
            old, new = watched.master, watched.replica
            old.ask("WAIT", 1, 0)
            failover = asyncio.create_task(asyncio.to_thread(_fail_over, watched, kill))
            # Until the new master answers. The old one may continue for a while, without effect.
            while cursors[-1].epoch == cursors[0].epoch:
                cursors.append(await stream.publish(len(cursors)))
            await failover
            number = len(cursors) - 1

            async with listening(new.url, length=100_000) as ears:
                kept = await ears.broker.read("x", Cursor(cursors[0].epoch, 0), ALL)
            assert kept[-1].cursor == cursors[-1]
            expected = [int(event.payload) for event in kept]
            await wait_until(lambda: early.expired or early.got[-1:] == [number], seconds=10)
            if early.expired is None:
                assert early.got == expected
            else:
                assert set(early.got) - set(expected)


async def test_an_unknown_service_is_named_in_the_error(redis_program: Path) -> None:
    with sentinel(redis_program) as watched:
        assert "nobody" in await refusal(f"redis+sentinel://{HOST}:{watched.watcher.port}/nobody")


async def test_an_unreachable_sentinel_is_reported() -> None:
    with refusing_port() as port:
        assert "tasks" in await refusal(f"redis+sentinel://{HOST}:{port}/tasks")


async def test_a_sentinel_that_is_down_is_passed_over(redis_program: Path) -> None:
    with sentinel(redis_program) as watched, refusing_port() as port:
        url = watched.url.replace(HOST, f"{HOST}:{port},{HOST}")
        topic = new_topic()
        async with listening(url) as ears:
            await ears.broker.subscribe(topic)
            await ears.broker.publish(topic, b"1")
            await wait_until(lambda: ears.payloads == [b"1"])


async def test_a_missing_master_is_reported_until_there_is_another(redis_program: Path) -> None:
    with sentinel(redis_program) as watched:
        async with listening(watched.url) as ears:
            await ears.broker.publish("x", b"1")
            watched.master.kill()
            with pytest.raises(BrokerUnavailable):
                await ears.broker.publish("x", b"2")


def _fail_over(watched: Sentinel, kill: bool) -> None:
    old, new = watched.master, watched.replica
    watched.failover(kill=kill)
    if not kill:
        # The sentinel does this too, but only after ten seconds.
        old.ask("REPLICAOF", HOST, new.port)
