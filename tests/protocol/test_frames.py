"""Complete WebSocket frames."""

import json
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from gqlnotify.protocol.frames import (
    COMPRESSED_TEXT,
    TEXT,
    Batch,
    Prefix,
    SharedBody,
    spliced,
    spliced_deflated,
    text_frame,
)

EMPTY_BLOCK = b"\x00\x00\xff\xff"
BOUNDARIES = (125, 126, 127, 0xFFFE, 0xFFFF, 0x10000, 0x10001)
STRANGE_IDS = (
    "1",
    '"',
    '\\"\\',
    "\x00\n\x7f",
    "é\u2028😀",
    "\ud800",
    "\udc00\ud800",
    "x" * 70_000,
    "😀" * 70_000,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abé😀"), inner),
    max_leaves=20,
)
ids = st.text(st.characters(), min_size=1)


@dataclass(frozen=True)
class Read:
    """One frame, read by the letter of RFC 6455, section 5.2."""

    first: int
    payload: bytes
    header: int


def read(stream: bytes) -> Iterator[Read]:
    while stream:
        first, size = stream[0], stream[1]
        assert size < 0x80, "a server does not mask"
        header = {126: 4, 127: 10}.get(size, 2)
        if header > 2:
            size = int.from_bytes(stream[2:header], "big")
        payload = stream[header : header + size]
        assert len(payload) == size, "the frame is cut"
        yield Read(first, payload, header)
        stream = stream[header + size :]


def only(stream: bytes) -> Read:
    [frame] = read(stream)
    return frame


def head_of(id_: str) -> Prefix:
    return Prefix(json.dumps(id_))


def tail_of(payload: Any, *, ensure_ascii: bool = False) -> SharedBody:
    return SharedBody(json.dumps({"type": "next", "payload": payload}, ensure_ascii=ensure_ascii))


def inflated(data: bytes, bits: int = 12) -> bytes:
    """Read one compressed message with an inflater that knows nothing else."""
    return zlib.decompressobj(-bits).decompress(data + EMPTY_BLOCK)


def message(id_: str, payload: Any) -> dict[str, Any]:
    return {"id": id_, "type": "next", "payload": payload}


@given(st.binary(max_size=300))
def test_a_short_message_is_one_unmasked_text_frame(payload: bytes) -> None:
    assert only(text_frame(payload)) == Read(TEXT, payload, 2 if len(payload) < 126 else 4)


@pytest.mark.parametrize(
    ("size", "header"),
    [(0, 2), (1, 2), (125, 2), (126, 4), (0xFFFF, 4), (0x10000, 10), (3 * 2**20, 10)],
)
def test_a_length_is_spelled_in_the_fewest_bytes(size: int, header: int) -> None:
    assert only(text_frame(b"x" * size)) == Read(0x81, b"x" * size, header)


@given(ids, json_values)
def test_a_spliced_frame_is_the_frame_of_the_whole_message(id_: str, payload: Any) -> None:
    frame = spliced(head_of(id_), tail_of(payload))
    assert frame == text_frame(only(frame).payload)
    assert json.loads(only(frame).payload) == message(id_, payload)


@given(ids, json_values)
def test_a_compressed_frame_is_the_spliced_one_to_its_reader(id_: str, payload: Any) -> None:
    prefix, body = head_of(id_), tail_of(payload)
    frame = only(spliced_deflated(prefix, body))
    assert frame.first == COMPRESSED_TEXT == 0xC1
    assert inflated(frame.payload) == only(spliced(prefix, body)).payload


@given(ids, json_values)
def test_both_paths_have_the_same_text(id_: str, payload: Any) -> None:
    prefix, body = head_of(id_), tail_of(payload)
    assert (prefix.text + body.text).encode() == only(spliced(prefix, body)).payload


@pytest.mark.parametrize("id_", STRANGE_IDS, ids=lambda id_: ascii(id_)[:20])
@pytest.mark.parametrize("compress_above", [0, 1])
def test_any_id_reads_back_as_it_was(id_: str, compress_above: int) -> None:
    batch = Batch([tail_of("é" * 100)])
    frame = only(batch.frames(head_of(id_), compress_above=compress_above))
    text = inflated(frame.payload) if frame.first == COMPRESSED_TEXT else frame.payload
    assert json.loads(text) == message(id_, "é" * 100)


@pytest.mark.parametrize("whole", BOUNDARIES)
@pytest.mark.parametrize("id_length", [1, 2, 40])
def test_the_length_is_right_on_either_side_of_each_boundary(whole: int, id_length: int) -> None:
    prefix = head_of("i" * id_length)
    missing = whole - len(prefix.data) - len(tail_of("").data)
    body = tail_of("x" * missing)
    frame = spliced(prefix, body)
    assert len(only(frame).payload) == whole
    assert frame == text_frame(prefix.data + body.data)
    assert Batch([body]).frames(prefix) == frame


@pytest.mark.parametrize("size", [0xFFFE, 0xFFFF, 0x10000, 0x10001])
def test_an_id_too_long_for_a_stored_block_is_not_compressed(size: int) -> None:
    prefix = Prefix('"' + "i" * (size - 2 - len(b'{"id":')) + '"')
    assert len(prefix.data) == size
    frame = only(spliced_deflated(prefix, tail_of("x")))
    assert (frame.first == COMPRESSED_TEXT) == (size <= 0xFFFF)
    text = inflated(frame.payload) if frame.first == COMPRESSED_TEXT else frame.payload
    assert text == prefix.data + tail_of("x").data


@pytest.mark.parametrize("size", [0, 1, 125, 126, 4095, 4096, 4097, 32768, 0x10000, 200 * 1024])
@pytest.mark.parametrize("alphabet", ["x", "abcdefgh", "é😀"])
@pytest.mark.parametrize("bits", [12, 13, 15])
def test_a_reader_with_any_larger_window_reads_it(size: int, alphabet: str, bits: int) -> None:
    # Not to be foreseen, and with repeats further back than a window of 12 bits reaches.
    text = "".join(alphabet[(n * n // 7 + n // 4001) % len(alphabet)] for n in range(size))
    prefix, body = head_of("1"), tail_of(text)
    frame = only(spliced_deflated(prefix, body))
    assert inflated(frame.payload, bits) == prefix.data + body.data


@given(st.lists(st.tuples(ids, json_values, st.sampled_from("cpo")), max_size=8))
def test_a_reader_that_keeps_its_context_is_not_disturbed(
    messages: Sequence[tuple[str, Any, str]],
) -> None:
    """Compressed ones of ours, plain ones, and those of a compressor with a context of its own."""
    reader = PerMessageDeflate(False, False, 12, 12, {})
    for id_, payload, kind in messages:
        prefix, body = head_of(id_), tail_of(payload)
        whole = prefix.data + body.data
        if kind == "p":
            sent = Frame(Opcode.TEXT, only(spliced(prefix, body)).payload)
        elif kind == "c":
            sent = Frame(Opcode.TEXT, only(spliced_deflated(prefix, body)).payload, rsv1=True)
        else:
            sent = PerMessageDeflate(True, True, 12, 12, {}).encode(Frame(Opcode.TEXT, whole))
        assert bytes(reader.decode(sent).data) == whole


@given(st.lists(json_values, min_size=1, max_size=6), st.lists(ids, min_size=1, max_size=4))
def test_a_batch_is_its_frames_in_sequence_for_every_prefix(
    payloads: Sequence[Any], heads: Sequence[str]
) -> None:
    bodies = [tail_of(payload) for payload in payloads]
    batch = Batch(bodies)
    for id_ in (*heads, *heads):
        prefix = head_of(id_)
        assert batch.frames(prefix) == b"".join(spliced(prefix, body) for body in bodies)


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    st.integers(0, 3000),
    st.booleans(),
)
def test_only_what_reaches_the_threshold_is_compressed(
    sizes: Sequence[int], compress_above: int, plain_first: bool
) -> None:
    bodies = [tail_of("x" * size) for size in sizes]
    batch, prefix = Batch(bodies), head_of("1")
    if plain_first:
        batch.frames(prefix)
    frames = list(read(batch.frames(prefix, compress_above=compress_above)))
    assert [frame.first == COMPRESSED_TEXT for frame in frames] == [
        0 < compress_above <= len(body.data) for body in bodies
    ]
    texts = [inflated(f.payload) if f.first == COMPRESSED_TEXT else f.payload for f in frames]
    assert texts == [prefix.data + body.data for body in bodies]


@pytest.mark.parametrize(("beyond", "compressed"), [(-1, False), (0, True), (1, True)])
def test_the_threshold_itself_is_compressed(beyond: int, compressed: bool) -> None:
    body = tail_of("x" * 1000)
    above = len(body.data) - beyond
    frame = only(Batch([body]).frames(head_of("1"), compress_above=above))
    assert (frame.first == COMPRESSED_TEXT) == compressed
    # The same in a batch with a body that is large enough.
    frames = read(Batch([body, tail_of("x" * 5000)]).frames(head_of("1"), compress_above=above))
    assert [f.first == COMPRESSED_TEXT for f in frames] == [compressed, True]


def test_ids_of_many_lengths_take_no_more_memory_than_those_of_a_few() -> None:
    body = tail_of("hi")
    batch = Batch([body])
    tracemalloc.start()
    for length in range(1, 1000):
        prefix = head_of("x" * length)
        assert batch.frames(prefix) == spliced(prefix, body)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 5000


def test_a_body_is_compressed_once_for_all_prefixes() -> None:
    batch = Batch([tail_of("x" * 5000)])
    frames = [only(batch.frames(head_of(str(n)), compress_above=1)) for n in range(3)]
    deflated = batch.bodies[0].deflated
    assert all(frame.payload.endswith(deflated) for frame in frames)
    assert batch.bodies[0].deflated is deflated
    assert len(frames[0].payload) < 200


@pytest.mark.parametrize("spelling", ['  {"a": 1}', '{\n  "a": 1\n}', '{ "a":1 }', '{"a":"é"}'])
def test_an_encoder_may_use_any_white_space(spelling: str) -> None:
    payload = only(spliced(head_of("1"), SharedBody(spelling))).payload
    assert json.loads(payload) == {"id": "1", **json.loads(spelling)}


def test_a_text_that_is_not_valid_utf8_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        SharedBody('{"a":"\ud800"}')
