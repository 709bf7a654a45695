"""Random conversations on a WebSocket, generated from a seed."""

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

OFFER = "permessage-deflate; client_max_window_bits"
CLOSE = 8
_CONTROLS = (8, 9, 10)
_SIZES = (0, 1, 3, 125, 126, 127, 300, 5000, 65_535, 65_536, 70_000)
_DOCUMENTS = (
    "{ hello }",
    "subscription { count(to: 5) }",
    'subscription { numbers(name: "fuzz") { value } }',
    'subscription { numbers(name: "fuzz", after: "1-1") { value } }',
    'subscription { ticks(gate: "never") }',
    'mutation { publish(name: "fuzz", value: 1) }',
    '{ echo(text: "é\\ud800") }',
    "subscription { nothing }",
    "{ hello",
    "{" * 300,
    "",
)
_HEADERS = (
    "Host: here",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: graphql-transport-ws",
)
_ODD_HEADERS = (
    "Upgrade: h2c",
    "Connection: close",
    "Sec-WebSocket-Version: 8",
    "Sec-WebSocket-Version: x",
    "Sec-WebSocket-Key: short",
    "Sec-WebSocket-Key: é",
    "Sec-WebSocket-Protocol: ,,,",
    "Sec-WebSocket-Protocol: \xff\xfe",
    "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=8",
    "Sec-WebSocket-Extensions: ;;;=,",
    "Sec-WebSocket-Extensions: permessage-deflate; x; x",
    "Origin: null",
    "Origin: http://\x80",
    "Authorization: Bearer \xff",
    "Authorization: Bearer",
    "Cookie: " + "a=b; " * 500,
    "X-Long: " + "x" * 20_000,
    "No colon at all",
    ": no name",
    "Host: another",
)
_TARGETS = ("/graphql", "/graphql?x=%ff", "/%00", "/nothing", "*", "/graphql#x", "/" + "x" * 5000)


@dataclass(frozen=True)
class Input:
    """The bytes that are sent on one connection.

    `whole`: every frame is complete and the last one closes, so the server must end the connection.
    """

    kind: str
    handshake: bytes
    frames: Sequence[bytes] = ()
    whole: bool = False
    answered: bool = True
    close_codes: frozenset[int] = frozenset()


def handshake(*more: str, target: str = "/graphql") -> bytes:
    """Return a request to open a socket."""
    return _request("GET", target, "HTTP/1.1", [*_HEADERS, *more])


def frame(
    rng: Random,
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    form: int = 0,
    declared: int | None = None,
) -> bytes:
    """Return a frame, also an invalid one; `form` 126 or 127 forces a longer length field."""
    size = len(payload) if declared is None else declared
    form = max(form, 127 if size > 0xFFFF else 126 if size > 125 else 0)
    length = form or size
    extended = {0: b"", 126: struct.pack("!H", size & 0xFFFF), 127: struct.pack("!Q", size)}[form]
    first = bytes([fin << 7 | reserved << 4 | opcode])
    if not masked:
        return first + bytes([length]) + extended + payload
    mask = rng.randbytes(4)
    return first + bytes([length | 0x80]) + extended + mask + _masked(payload, mask)


def make(rng: Random) -> Input:
    """Return the next input."""
    kind: Callable[[Random], Input] = rng.choices(
        [_conversation, _frames, _compressed, _rubbish, _mutated, _odd_handshake, _cut_handshake],
        [30, 30, 10, 5, 15, 7, 3],
    )[0]
    return kind(rng)


def _conversation(rng: Random) -> Input:
    texts = [_message(rng) for _ in range(rng.randint(1, 12))]
    if rng.random() < 0.8:
        texts.insert(0, b'{"type":"connection_init"}')
    frames = [part for text in texts for part in _fragments(rng, 1, text)]
    return _closed("conversation", rng, frames)


def _frames(rng: Random) -> Input:
    frames = [_frame(rng) for _ in range(rng.randint(1, 10))]
    whole = all(is_whole for _, is_whole in frames)
    sent = [data for data, _ in frames]
    if not whole:
        return Input("frames", handshake(), sent, close_codes=_codes(sent))
    return _closed("frames", rng, sent)


def _compressed(rng: Random) -> Input:
    frames = [b"", *(_deflated(rng) for _ in range(rng.randint(1, 4)))]
    frames[0] = frame(rng, 1, b'{"type":"connection_init"}')
    offer = f"Sec-WebSocket-Extensions: {OFFER}"
    return _closed("compressed", rng, frames, *([offer] if rng.random() < 0.9 else []))


def _rubbish(rng: Random) -> Input:
    return Input("rubbish", handshake(), [rng.randbytes(rng.choice(_SIZES))], close_codes=_ANY)


def _mutated(rng: Random) -> Input:
    original = _conversation(rng)
    data = bytearray(b"".join(original.frames))
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data) or 1)
        data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    return Input("mutated", handshake(), _cut(rng, bytes(data)), close_codes=_ANY)


def _odd_handshake(rng: Random) -> Input:
    headers = [header for header in _HEADERS if rng.random() < 0.9]
    headers += rng.sample(_ODD_HEADERS, rng.randint(0, 3))
    method = rng.choice(["GET"] * 6 + ["POST", "OPTIONS", "get", "\x00"])
    version = rng.choice(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2", "HTTP/9.9", "x"])
    target = rng.choice([*_TARGETS, *["/graphql"] * 6])
    return Input("odd handshake", _request(method, target, version, headers))


def _cut_handshake(rng: Random) -> Input:
    whole = handshake()
    return Input("cut handshake", whole[: rng.randrange(len(whole))], answered=False)


def _closed(kind: str, rng: Random, frames: list[bytes], *headers: str) -> Input:
    frames.append(frame(rng, CLOSE, b"\x03\xe8"))
    return Input(kind, handshake(*headers), frames, whole=True, close_codes=_codes(frames))


def _message(rng: Random) -> bytes:
    id_: Any = rng.choice(["1", "2", "3", "é", "", "x" * 500, "\ud800", 5, None, [], {}])
    payload: Any = {"query": rng.choice(_DOCUMENTS)}
    if rng.random() < 0.2:
        payload = rng.choice([None, [], "x", 1, {}, {"query": 1}, {"query": "{ hello }", "x": 1}])
    if rng.random() < 0.2 and isinstance(payload, dict):
        name = rng.choice(["variables", "extensions", "operationName"])
        payload[name] = rng.choice([None, [], "x", {}, {"after": "x"}, {"after": {}}, 10**400])
    subscribe = {"type": "subscribe", "id": id_, "payload": payload}
    message: Any = rng.choices(
        [
            subscribe,
            {"type": "complete", "id": id_},
            {"type": rng.choice(["ping", "pong"]), "payload": rng.choice([None, {"a": [1]}, []])},
            {"type": "connection_init", "payload": rng.choice([{}, None, [], {"a": "b"}])},
            {"type": rng.choice(["", "next", "start", "x" * 99, None, 1, [], {}])},
            rng.choice([None, [], "x", 1, True, {}]),
        ],
        [50, 20, 15, 3, 2, 2],
    )[0]
    text = json.dumps(message).encode()
    return rng.choices([text, b"[" * rng.choice((10, 60_000)), text[:-1]], [50, 1, 1])[0]


def _fragments(rng: Random, opcode: int, payload: bytes) -> list[bytes]:
    """Return a message in one or several frames, with control frames between them."""
    pieces = _cut(rng, payload) if rng.random() < 0.3 else [payload]
    frames = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        frames.append(frame(rng, 0 if number else opcode, piece, fin=last))
        if rng.random() < 0.1:
            frames.append(frame(rng, rng.choice((9, 10)), rng.randbytes(rng.randint(0, 125))))
    return frames


def _cut(rng: Random, data: bytes) -> list[bytes]:
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 4)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def _frame(rng: Random) -> tuple[bytes, bool]:
    """Return some frames, and whether they are complete."""
    match rng.randrange(10):
        case 0:
            return b"".join(_fragments(rng, 1, rng.choice(_BAD_TEXTS))), True
        case 1:
            return frame(
                rng, rng.choice(_CONTROLS), rng.randbytes(rng.choice((0, 1, 2, 125)))
            ), True
        case 2:
            return frame(rng, rng.choice(_CONTROLS), bytes(rng.choice((126, 200, 70_000)))), True
        case 3:
            return frame(rng, CLOSE, _close_body(rng)), True
        case 4:
            return frame(rng, rng.randrange(16), b"x", reserved=rng.randrange(8)), True
        case 5:
            return frame(rng, 1, b'{"type":"ping"}', masked=False), True
        case 6:
            return frame(rng, 1, b'{"type":"ping"}', form=rng.choice((126, 127))), True
        case 7:
            declared = rng.choice((50, 2**16, 2**24, 2**31, 2**63 - 1, 2**63, 2**64 - 1))
            return frame(rng, rng.choice((1, 2, 0)), b"half a frame", declared=declared), False
        case 8:
            fin = rng.random() < 0.7
            return frame(rng, rng.choice((0, 1, 2)), bytes(rng.choice(_SIZES)), fin=fin), True
    return frame(rng, 1, _message(rng)), True


def _deflated(rng: Random) -> bytes:
    """Return a compressed message: a valid one, a broken one or a bomb."""
    data = _deflate(rng.choice(_COMPRESSED), rng.choice((9, 12, 15)))
    broken = rng.choice([data, data, data, data[:-3], rng.randbytes(50), b"", data + b"\x01\x02"])
    return frame(rng, rng.choice((1, 1, 1, 2, 0, 9)), broken, reserved=4)


@cache
def _deflate(text: bytes, bits: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(b"\x00\x00\xff\xff")


def _close_body(rng: Random) -> bytes:
    code = rng.choice((0, 999, 1000, 1001, 1004, 1005, 1006, 1010, 1015, 2999, 3000, 4999, 5000))
    return struct.pack("!H", code) + rng.choice([b"", b"bye", b"\xff\xfe", b"x" * 123])


def _codes(frames: Sequence[bytes]) -> frozenset[int]:
    # A close is answered with its own code, so the server may send these.
    return _ANY if any(data[:1] == b"\x88" for data in frames) else frozenset()


def _request(method: str, target: str, version: str, headers: Sequence[str]) -> bytes:
    lines = [f"{method} {target} {version}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    whole = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(size)


# But no code that reports a failure of the server.
_ANY = frozenset(range(1000, 5000)) - {1006, 1011, 4500}
_COMPRESSED = (b'{"type":"ping"}', bytes(20 * 2**20), bytes(200_000), b"")
_BAD_TEXTS = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"ok \xf0\x9f\x98", b'{"type":"ping"}\x80' * 50)
