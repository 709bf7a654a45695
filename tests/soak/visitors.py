"""Clients that connect once, and mostly misbehave. Each checks the server's answers."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from tests.soak.peer import Gone, Peer
from tests.soak.state import LARGE, NUMBERS, SECRET, TOPICS, State, token

Visit = Callable[[State], Awaitable[None]]

_ECHO = "query($text: String!) { echo(text: $text) }"
# How the server closes dead or slow connections; without a close frame if none would be read.
_LET_GO = {None, 1011, 1013}
_STUCK_SECONDS = 60.0


@contextmanager
def _connected(peer: Peer) -> Iterator[Peer]:
    try:
        yield peer
    finally:
        peer.cut()


async def _welcomed(state: State, *, buffer: int = 2**16) -> Peer:
    peer = await Peer.connect(state.port, deflate=state.rng.random() < 0.25, buffer=buffer)
    peer.init(state.token)
    await peer.expect("connection_ack")
    return peer


async def _expect_close(state: State, peer: Peer, what: str, *codes: int | None) -> None:
    gone = await peer.gone()
    state.counts[f"closed with {gone.code}"] += 1
    if gone.code not in codes:
        state.note_problem(f"{what}: closed with {gone}, not {codes}")


async def cut(state: State) -> None:
    """Subscribe to several topics and vanish in the middle."""
    with _connected(await _welcomed(state)) as peer:
        for number, name in enumerate(state.rng.sample(TOPICS[:-1], 3)):
            mine, every = state.rng.random() < 0.3, state.rng.choice((1, 2, 3, number + 4))
            peer.subscribe(str(number), NUMBERS, name=name, mine=mine, every=every)
        for _ in range(state.rng.randrange(40)):
            await peer.receive()


async def complete(state: State) -> None:
    """Complete operations and start others with the same ids, at once."""
    with _connected(await _welcomed(state)) as peer:
        for _ in range(state.rng.randrange(1, 20)):
            peer.subscribe("same", NUMBERS, name=state.topic())
            for _ in range(state.rng.randrange(4)):
                await peer.expect("next")
            peer.send({"id": "same", "type": "complete"})
        peer.subscribe("count", "subscription { count(to: 5) }")
        await peer.expect("complete")
        peer.hang_up()


async def ask(state: State) -> None:
    """Send valid and invalid queries, and get an answer to each."""
    with _connected(await _welcomed(state)) as peer:
        for number in range(state.rng.randrange(1, 20)):
            text = f"{number} {state.rng.random()}"
            peer.subscribe("ask", _ECHO, text=text)
            message = await peer.expect("next")
            if message["payload"] != {"data": {"echo": text}}:
                state.note_problem(f"asked for {text}, got {message}")
            await peer.expect("complete")
            peer.subscribe("ask", state.rng.choice(("{ nothing }", "{", "", "{ echo(text: 1) }")))
            await peer.expect("error")
            await state.pause(0, 0.5)


async def lag(state: State) -> None:
    """Read nothing for some time, and then everything without a gap."""
    with _connected(await _welcomed(state, buffer=2**13)) as peer:
        peer.subscribe("lag", NUMBERS, name=LARGE)
        last: int | None = None
        for _ in range(3):
            await state.pause(1, 4)
            for _ in range(10):
                try:
                    number = (await peer.expect("next"))["payload"]["data"]["numbers"]["number"]
                except Gone as gone:
                    state.counts[f"laggards ended: {gone.code}"] += 1
                    if gone.code not in _LET_GO:
                        state.note_problem(f"a laggard was closed with {gone}")
                    return
                if last is not None and number != last + 1:
                    state.note_problem(f"a laggard got {number} after {last}")
                last = number
                if state.closing.is_set():
                    return


async def stick(state: State) -> None:
    """Stop reading for good, but send messages: the server disconnects."""
    with _connected(await _welcomed(state, buffer=2**13)) as peer:
        peer.subscribe("large", NUMBERS, name=LARGE)
        peer.subscribe("flood", "subscription { flood }")
        began = asyncio.get_running_loop().time()
        while not peer.is_cut:
            peer.send({"type": "ping"})
            await asyncio.sleep(0.5)
            if asyncio.get_running_loop().time() > began + _STUCK_SECONDS:
                return state.note_problem(f"who reads nothing was kept for {_STUCK_SECONDS} s")
        state.counts["stuck peers let go"] += 1
    return None


async def die(state: State) -> None:
    """Read and send nothing, and then vanish."""
    with _connected(await _welcomed(state, buffer=2**13)) as peer:
        peer.subscribe("large", NUMBERS, name=LARGE)
        peer.subscribe("small", NUMBERS, name=TOPICS[0])
        await state.pause(2, 20)


async def talk_nonsense(state: State) -> None:
    """Send messages that break the protocol."""
    subscribe = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { flood }"}}
    what, codes = state.rng.choice(_NONSENSE)
    with _connected(await _welcomed(state)) as peer:
        peer.subscribe("small", NUMBERS, name=TOPICS[0])
        if what == "the same id twice":
            peer.send(subscribe, subscribe)
        elif what == "two inits":
            peer.init(state.token)
        elif what == "not UTF-8":
            peer.text(b'{"id":"\xff"}')
        elif what == "not masked":
            peer.write(b"\x81\x02{}")
        elif what == "a large message":
            peer.text(json.dumps({"type": "ping", "payload": {"x": "y" * 70_000}}))
        elif what == "binary":
            peer.text(b"{}", opcode=2)
        else:
            peer.text(what)
        await _expect_close(state, peer, what[:50], *codes)


_NONSENSE: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("the same id twice", (4409,)),
    ("two inits", (4429,)),
    ("not UTF-8", (1007,)),
    ("not masked", (1002,)),
    ("a large message", (1009,)),
    ("binary", (4400,)),
    ("", (4400,)),
    ("[]", (4400,)),
    ("[" * 60_000, (4400,)),
    ('{"type": "connection_ack"}', (4400,)),
    ('{"type": "subscribe", "id": [], "payload": {}}', (4400,)),
    ('{"type": "subscribe", "id": "1", "payload": []}', (4400,)),
)


async def come_unbidden(state: State) -> None:
    """Send a bad token, none, or one that expires soon, or leave early."""
    what = state.rng.choice(("forged", "none", "over", "ending", "no init"))
    with _connected(await Peer.connect(state.port)) as peer:
        if what == "forged":
            peer.init(token("mallory", secret=SECRET + "?"))
        elif what == "none":
            peer.send({"type": "connection_init"})
        elif what == "over":
            peer.init(token("late", seconds=-100))
        elif what == "ending":
            peer.init(token("short", seconds=3))
            peer.subscribe("small", NUMBERS, name=TOPICS[0])
        else:
            peer.subscribe("early", NUMBERS, name=TOPICS[0])
        await _expect_close(state, peer, f"{what} token", 4401, 4403)


async def stay_silent(state: State) -> None:
    """Open a socket and never say `connection_init`."""
    with _connected(await Peer.connect(state.port)) as peer:
        await _expect_close(state, peer, "silence", 4408)


async def shake_half_a_hand(state: State) -> None:
    """Start a request and never finish it."""
    with _connected(await Peer.dial(state.port)) as peer:
        peer.write(state.rng.choice((b"", b"G", b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgr")))
        await state.pause(0.5, 5)


async def speak_another_language(state: State) -> None:
    """Offer an unknown subprotocol."""
    try:
        with _connected(await Peer.connect(state.port, protocol="graphql-ws")) as peer:
            await _expect_close(state, peer, "another subprotocol", 4406)
    except Gone as gone:
        if gone.code != 403:
            state.note_problem(f"another subprotocol: {gone}")


VISITS: dict[Visit, int] = {
    cut: 30,
    complete: 15,
    ask: 10,
    lag: 10,
    stick: 3,
    die: 5,
    talk_nonsense: 12,
    come_unbidden: 10,
    stay_silent: 3,
    shake_half_a_hand: 5,
    speak_another_language: 2,
}


async def keep_visiting(state: State) -> None:
    """Run one visitor after the other until the end of the run."""
    while not state.closing.is_set():
        visit = state.rng.choices(list(VISITS), list(VISITS.values()))[0]
        state.counts[f"visits: {visit.__name__}"] += 1
        try:
            await visit(state)
        except Gone as gone:
            # The server may find us too slow because this machine is busy.
            state.counts[f"visitors ended: {gone.code}"] += 1
            if gone.code not in _LET_GO:
                state.note_problem(f"{visit.__name__} was closed with {gone}")
        await state.pause(0, 1)
