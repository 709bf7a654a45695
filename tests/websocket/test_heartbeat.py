"""A heartbeat pings a silent peer, and detects a dead one."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gqlnotify.websocket.heartbeat import Heartbeat
from tests.waiting import wait_until

INTERVAL = 0.1
TIMEOUT = 0.1


class Peer:
    """Notes when it was pinged and when its peer was declared dead."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.reads = False
        self.pinged: list[float] = []
        self.dead: list[float] = []
        self.began = self.now()
        self.heartbeat = Heartbeat(
            interval=INTERVAL,
            timeout=TIMEOUT,
            ping=self._ping,
            reads=self._reads,
            dead=self._give_up,
        )

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    def _reads(self) -> bool:
        return self.reads

    def _ping(self) -> None:
        self.pinged.append(self.now())
        if self.answers:
            self.heartbeat.heard()

    def _give_up(self) -> None:
        self.dead.append(self.now())


@pytest.fixture
async def silent() -> AsyncIterator[Peer]:
    peer = Peer(answers=False)
    yield peer
    peer.heartbeat.stop()


@pytest.fixture
async def answering() -> AsyncIterator[Peer]:
    peer = Peer(answers=True)
    yield peer
    peer.heartbeat.stop()


async def pass_time(seconds: float, **each_tick: Any) -> None:
    """Let the loop run for `seconds` of its own time."""
    end = Peer.now() + seconds
    while Peer.now() < end:
        for call in each_tick.values():
            call()
        await asyncio.sleep(0)


def block(seconds: float) -> None:
    """Block the event loop, like a resolver that computes."""
    time.sleep(seconds)


async def test_a_silent_peer_is_pinged_once_and_given_up_once(silent: Peer) -> None:
    await wait_until(lambda: silent.dead)
    await pass_time(3 * INTERVAL)
    assert len(silent.pinged) == 1
    assert len(silent.dead) == 1


async def test_no_ping_and_no_timeout_comes_early(silent: Peer) -> None:
    await wait_until(lambda: silent.dead)
    assert silent.pinged[0] - silent.began >= INTERVAL * 0.99
    assert silent.dead[0] - silent.pinged[0] >= TIMEOUT * 0.99


async def test_a_peer_that_answers_is_pinged_again_and_again(answering: Peer) -> None:
    await wait_until(lambda: len(answering.pinged) >= 4)
    assert answering.dead == []
    gaps = [later - earlier for earlier, later in zip(answering.pinged, answering.pinged[1:])]  # noqa: B905
    assert min(gaps) >= INTERVAL * 0.99


async def test_a_peer_that_talks_is_not_pinged(silent: Peer) -> None:
    await pass_time(4 * INTERVAL, heard=silent.heartbeat.heard)
    assert silent.pinged == []


async def test_a_peer_that_falls_silent_later_is_pinged_then(silent: Peer) -> None:
    heard = [silent.began]

    def hear() -> None:
        heard.append(Peer.now())
        silent.heartbeat.heard()

    await pass_time(2 * INTERVAL, heard=hear)
    await wait_until(lambda: silent.pinged)
    assert silent.pinged[0] - heard[-1] >= INTERVAL * 0.99


async def test_a_sign_of_life_after_the_ping_is_enough(silent: Peer) -> None:
    await wait_until(lambda: silent.pinged)
    silent.heartbeat.heard()
    await wait_until(lambda: len(silent.pinged) == 2)
    assert silent.dead == []


@pytest.mark.parametrize("pings", [0, 1])
async def test_nothing_is_called_after_the_stop(silent: Peer, pings: int) -> None:
    await wait_until(lambda: len(silent.pinged) == pings)
    silent.heartbeat.stop()
    await pass_time(3 * (INTERVAL + TIMEOUT))
    assert len(silent.pinged) == pings
    assert silent.dead == []


async def test_a_peer_that_still_reads_is_waited_for(silent: Peer) -> None:
    silent.reads = True
    await wait_until(lambda: silent.pinged)
    await pass_time(3 * TIMEOUT)
    assert silent.dead == []
    silent.reads = False
    await wait_until(lambda: silent.dead)
    assert len(silent.pinged) == 1


async def test_a_process_that_was_blocked_disconnects_no_peer(silent: Peer) -> None:
    await wait_until(lambda: silent.pinged)
    block(3 * TIMEOUT)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    silent.heartbeat.heard()
    await wait_until(lambda: len(silent.pinged) == 2)
    assert silent.dead == []
