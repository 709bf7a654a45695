"""What the messages of a plain WebSocket look like, without a socket."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify import Cursor, Event
from gqlnotify.errors import BadUserInput
from gqlnotify.plain import messages

CURSOR = Cursor(7, 3)


def event(value: Any) -> Event:
    return Event("news", CURSOR, json.dumps(value).encode())


def binary(content: bytes) -> dict[str, str]:
    return {"$binary": b64encode(content).decode()}


@given(st.binary())
def test_bytes_come_back_as_they_were_sent(content: bytes) -> None:
    sent = messages.parse(content, only_json=True)
    frame = messages.frame_of(event({"author": "alice", "data": sent}))
    assert isinstance(frame, bytes)
    header, _, received = frame.partition(b"\n")
    assert received == content
    assert json.loads(header) == {
        "type": "event",
        "cursor": CURSOR,
        "data": {"author": "alice", "data": {"$binary": len(content)}},
    }


@pytest.mark.parametrize(
    "value",
    [
        "$binary",
        {"$binary": 5},
        {"$binary": "not base64"},
        {"$binary": "AA==", "more": 1},
        {"a": binary(b"1"), "b": binary(b"2")},
        {"a": {"deeper": binary(b"1")}},
        [binary(b"1")],
    ],
)
def test_what_only_looks_like_bytes_stays_text(value: Any) -> None:
    text = messages.frame_of(event(value))
    assert isinstance(text, str)
    assert json.loads(text)["data"] == value


def test_an_event_may_be_nothing_but_bytes() -> None:
    frame = messages.frame_of(event(binary(b"\n\n")))
    assert isinstance(frame, bytes)
    assert frame.partition(b"\n")[2] == b"\n\n"


@pytest.mark.parametrize("text", ['{"token": "a.b.c"}', '{"Authorization": "Bearer a.b.c"}'])
@pytest.mark.parametrize("only_json", [True, False])
def test_a_token_is_never_published(text: str, only_json: bool) -> None:
    with pytest.raises(BadUserInput, match="not published"):
        messages.parse(text, only_json=only_json)


@pytest.mark.parametrize(
    ("text", "value"), [("hello", "hello"), ("5", 5), ('"5"', "5"), ("{", "{"), ("", "")]
)
def test_a_text_that_is_not_json_is_a_string_where_no_subprotocol_says_json(
    text: str, value: Any
) -> None:
    assert messages.parse(text, only_json=False) == value
