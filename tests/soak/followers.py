"""Publishers, and followers that disconnect and resume all the time, and must lose no event."""

import asyncio

from tests.soak.peer import Gone, Peer
from tests.soak.state import LARGE, NUMBERS, State

_PUBLISH = (
    "mutation($name: String!, $number: Int!, $size: Int!) "
    "{ publish(name: $name, number: $number, size: $size) }"
)
_CURSOR = "query($name: String!) { cursor(name: $name) }"
# A filter passes the multiples of its number.
_STEPS = (1, 1, 1, 2, 3)
_LAST_STEP = 6
# The close codes of a server that finds us too slow, or that was cut.
_COME_BACK = {None, 1013}


async def publish(state: State, topic: str, *, per_second: float) -> None:
    """Publish until the end, and then a last event for every follower."""
    peer = await Peer.connect(state.port)
    try:
        peer.init(state.token)
        await peer.expect("connection_ack")
        number = 0
        while not state.last_events.is_set() or number % _LAST_STEP:
            number += 1
            await _publish_one(state, peer, topic, number)
            await asyncio.sleep(state.rng.uniform(0.5, 1.5) / per_second)
        for _ in range(_LAST_STEP):
            number += 1
            await _publish_one(state, peer, topic, number)
    finally:
        peer.cut()


async def _publish_one(state: State, peer: Peer, topic: str, number: int) -> None:
    # Noted first: a follower may get the event before its publisher gets the answer.
    state.published[topic] = number
    size = 30_000 if topic == LARGE else 100
    peer.subscribe("publish", _PUBLISH, name=topic, number=number, size=size)
    message = await peer.expect("next")
    if message["payload"].get("errors"):
        state.note_problem(f"not published: {message}")
    await peer.expect("complete")
    state.counts["events published"] += 1


class Follower:
    """Follows one topic to its last event, over any number of connections."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._topic = state.topic()
        self._step = state.rng.choice(_STEPS)
        self._mine = state.rng.random() < 0.1
        self._last: int | None = None
        self._cursor: str | None = None
        self._operations = 0

    async def stay(self) -> None:
        """Return when the last event has arrived."""
        while not self._done():
            try:
                await self._visit()
            except Gone as gone:
                self._state.counts[f"followers' connections ended: {gone.code}"] += 1
                if gone.code not in _COME_BACK:
                    self._state.note_problem(f"a follower was closed with {gone}")
                await asyncio.sleep(self._state.rng.uniform(0, 0.5))

    def _done(self) -> bool:
        if not self._state.last_events.is_set():
            return False
        if self._cursor is None:
            return True
        last = self._state.published.get(self._topic, 0)
        return last % _LAST_STEP == 0 and self._last == last

    async def _visit(self) -> None:
        state = self._state
        state.counts["visits of followers"] += 1
        peer = await Peer.connect(state.port, deflate=state.rng.random() < 0.25)
        try:
            peer.init(state.token)
            await peer.expect("connection_ack")
            if not await self._knows_where_to_begin(peer):
                return
            for _ in range(state.rng.choice((1, 1, 2))):
                await self._follow(peer, until=_now() + state.rng.uniform(1, 20))
        finally:
            _leave(peer, politely=state.rng.random() < 0.3)

    async def _knows_where_to_begin(self, peer: Peer) -> bool:
        if self._cursor is None:
            peer.subscribe("cursor", _CURSOR, name=self._topic)
            cursor = (await peer.expect("next"))["payload"]["data"]["cursor"]
            await peer.expect("complete")
            if self._state.last_events.is_set():
                return False
            self._cursor = cursor
        return True

    async def _follow(self, peer: Peer, until: float) -> None:
        self._operations += 1
        id_ = str(self._operations)
        peer.subscribe(
            id_, NUMBERS, after=self._cursor, name=self._topic, every=self._step, mine=self._mine
        )
        while not self._done():
            message = await peer.receive()
            if message.get("id") != id_:
                continue  # of the previous operation, sent before it was completed
            if message["type"] != "next":
                self._state.note_problem(f"a follower at {self._cursor} was told {message}")
                self._last, self._cursor = None, None
                return
            self._take(message["payload"])
            if _now() > until and not self._state.last_events.is_set():
                break
        peer.send({"id": id_, "type": "complete"})

    def _take(self, payload: dict[str, object]) -> None:
        data, extensions = payload["data"], payload["extensions"]
        assert isinstance(data, dict)
        assert isinstance(extensions, dict)
        number = data["numbers"]["number"]
        if self._last is not None and number != self._last + self._step:
            self._state.note_problem(
                f"{self._topic}: {number} after {self._last}, step {self._step}"
            )
        self._last, self._cursor = number, extensions["cursor"]
        self._state.counts["events followed"] += 1


def _leave(peer: Peer, *, politely: bool) -> None:
    if politely:
        peer.hang_up()
    else:
        peer.cut()


def _now() -> float:
    return asyncio.get_running_loop().time()
