"""What stalled readers cost the others: `python -m benchmarks.slow_readers`.

It prints the p99 delay of 100 healthy subscribers, alone and with 100 stalled ones beside them who
subscribed to the same and read nothing any more, turn by turn, on the direct and the portable path.
"""

import argparse
import json
import socket
import statistics
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.harness import HOST, TEXT, Cores, Session, raise_limits, session
from benchmarks.subjects import SUBJECTS, Subject

PEERS = 100
BIG_TEXT = TEXT * 60
# More than the kernel takes for one peer (tcp_wmem) and this server on top of it.
FILLING_ROUNDS, FILLING_EVENTS = 50, 10
MEASURED, INTERVAL_US = 150, 40_000
PATHS = {"direct": "bare", "portable": "bare-portable"}

_QUERY = (
    "subscription Events($room: String!, $tag: Int) "
    "{ events(room: $room, tag: $tag) { seq sentAt kind text } }"
)
_REQUEST = (
    f"GET /graphql HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_readers")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    raise_limits()
    cores = Cores.of_this_machine()
    print(f"| path | p99 alone | p99 with {PEERS} stalled | ratio |\n|---|---|---|---|")
    for path, name in PATHS.items():
        subject = next(subject for subject in SUBJECTS if subject.name == name)
        alone, with_stalled = [], []
        for _ in range(rounds):
            alone.append(p99(subject, cores, stalled=0))
            with_stalled.append(p99(subject, cores, stalled=PEERS))
            _row(path, alone[-1], with_stalled[-1])
        _row(
            f"{path}, median of {rounds}", statistics.median(alone), statistics.median(with_stalled)
        )


def p99(subject: Subject, cores: Cores, *, stalled: int) -> float:
    """Return the p99 delay of the healthy ones in milliseconds."""
    # Who is stalled stays that for as long as this takes.
    patient = {"GQLNOTIFY_SEND_TIMEOUT": "3600", "GQLNOTIFY_PING_INTERVAL": "3600"}
    environment = {**patient, "BENCH_TEXT": BIG_TEXT}
    with session(subject, cores, environment=environment) as s, ExitStack() as stack:
        s.enter_room()
        s.load.ask("connect", PEERS, 32)
        for _ in range(stalled):
            stack.enter_context(_stalled(s))
        s.load.ask("rounds", FILLING_ROUNDS, FILLING_EVENTS, 1, 60_000)
        s.calm()
        return float(s.load.ask("rate", MEASURED, INTERVAL_US)["p99_ms"])


@contextmanager
def _stalled(s: Session) -> Iterator[None]:
    """Subscribe to what the others have subscribed to, and read nothing of it."""
    variables = {"room": "r1", "tag": 0}
    payload = {"query": _QUERY, "operationName": "Events", "variables": variables}
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect((HOST, s.process.port))
        peer.sendall(_REQUEST.encode())
        _read_until(peer, b"\r\n\r\n")
        _send(peer, {"type": "connection_init"})
        _read_until(peer, b'"connection_ack"}')
        _send(peer, {"id": "1", "type": "subscribe", "payload": payload})
        _send(peer, {"type": "ping"})
        _read_until(peer, b'"pong"}')
        yield


def _send(peer: socket.socket, message: object) -> None:
    data = json.dumps(message).encode()
    peer.sendall(struct.pack("!BBH", 0x81, 0xFE, len(data)) + b"\0\0\0\0" + data)


def _read_until(peer: socket.socket, end: bytes) -> None:
    seen = b""
    while not seen.endswith(end):
        more = peer.recv(4096)
        if not more:
            raise ConnectionError(f"the server has hung up: {seen!r}")
        seen += more


def _row(name: str, alone: float, with_stalled: float) -> None:
    print(
        f"| {name} | {alone:.2f} ms | {with_stalled:.2f} ms | {with_stalled / alone:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
