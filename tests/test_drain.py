"""The order and the times at which a drain closes connections."""

import asyncio
from dataclasses import dataclass, field

from gqlnotify import is_draining
from gqlnotify.drain import Drain
from tests.waiting import wait_until


@dataclass(eq=False)
class Peer:
    """Closes when the drain asks it to, unless it is deaf."""

    deaf: bool = False
    breaks: bool = False
    gone: bool = False
    aborted: bool = False
    left: list[float] = field(default_factory=list)

    def leave(self) -> None:
        self.left.append(asyncio.get_running_loop().time())
        if self.breaks:
            raise ValueError("on purpose")
        self.gone = not self.deaf

    def abort(self) -> None:
        self.gone = self.aborted = True


def drain_of(*peers: Peer) -> Drain:
    drain = Drain.of(asyncio.get_running_loop())
    for peer in peers:
        drain.add(peer)
    return drain


async def test_connections_close_evenly_over_the_window() -> None:
    peers = [Peer() for _ in range(300)]
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await drain_of(*peers).begin(1.5, 5)

    [times] = [[peer.left[0] - begin for peer in peers]]
    assert times == sorted(times)
    # None is early; how late the last ones are depends on the machine.
    assert all(at >= 1.5 * place / 300 for place, at in enumerate(times))
    assert all(len(peer.left) == 1 and not peer.aborted for peer in peers)


async def test_a_drain_ends_when_the_last_connection_has_closed() -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await drain_of(Peer(), Peer()).begin(0.2, 600)
    await Drain().begin(600, 600)
    assert loop.time() - begin < 60


async def test_a_connection_that_does_not_close_is_dropped_within_the_margin() -> None:
    peers = [Peer(deaf=True), Peer(), Peer(deaf=True)]
    await drain_of(*peers).begin(0, 0.5)
    assert [peer.aborted for peer in peers] == [True, False, True]


async def test_a_connection_that_closed_by_itself_is_left_alone() -> None:
    peer = Peer(gone=True)
    await drain_of(peer, Peer()).begin(0, 1)
    assert peer.left == []
    assert not peer.aborted


async def test_a_failing_connection_does_not_stop_the_others() -> None:
    broken, other = Peer(breaks=True), Peer()
    await drain_of(broken, other).begin(0, 1)
    assert broken.aborted
    assert other.gone


async def test_a_connection_after_the_drain_began_closes_at_once() -> None:
    first, late = Peer(deaf=True), Peer()
    drain = drain_of(first)
    work = drain.begin(0, 60)
    await wait_until(lambda: first.left)
    drain.add(late)
    assert late.gone
    first.gone = True
    await work


async def test_a_drain_begins_once() -> None:
    drain = drain_of()
    assert not is_draining()
    work = drain.begin(0, 1)
    assert is_draining()
    assert drain.begin(60, 60) is work
    await work
    assert is_draining()
