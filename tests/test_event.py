"""Cursors, topic names, patterns and events."""

import copy
import dataclasses
import json
import pickle
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
import strawberry
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from gqlnotify import Cursor, Event, Topic, escape_segment, unescape_segment
from gqlnotify.errors import BadUserInput, InternalError
from gqlnotify.event import (
    MAX_EVENT_ID_LENGTH,
    MAX_TOPIC_LENGTH,
    check_event,
    check_topic_name,
    matches,
)


class Colour(Enum):
    RED = "red"


@strawberry.type
class Graphical:
    id: strawberry.ID
    at: datetime
    colour: Colour | None = None


@dataclass
class Plain:
    number: int
    parts: list["Plain"] = dataclasses.field(default_factory=list)


class Modelled(BaseModel):
    key: UUID
    data: dict[str, float]


VALUES: list[tuple[Any, Any]] = [
    (int, 2**60),
    (str, 'a "quoted" text \0 é \U0001f600'),
    (bool, False),
    (float, 1.5),
    (list[int], [1, 2]),
    (dict[str, Any], {"a": [None, {"b": 1}]}),
    (Plain, Plain(1, [Plain(2), Plain(3)])),
    (Graphical, Graphical(id=strawberry.ID("1"), at=datetime(2026, 1, 2, tzinfo=UTC))),
    (
        Graphical,
        Graphical(id=strawberry.ID("1"), at=datetime(2026, 1, 2, tzinfo=UTC), colour=Colour.RED),
    ),
    (Modelled, Modelled(key=UUID(int=7), data={"x": 0.5})),
]
MISFITS: list[tuple[Any, Any]] = [
    (int, "1"),
    (int, None),
    (str, 1),
    (str, b"bytes"),
    (list[int], ["x"]),
    (Plain, {"number": 1}),
    (Plain, Plain(number="one")),  # type: ignore[arg-type]
    (Plain, Plain(1, [Plain("two")])),  # type: ignore[arg-type]
    (Graphical, Plain(1)),
    (Graphical, Graphical(id=strawberry.ID("1"), at="noon")),  # type: ignore[arg-type]
    (Modelled, Modelled.model_construct(key="no key", data={})),
    (dict[str, Any], {"a": object()}),
    (str, "\ud800"),
]

# cursors

numbers = st.integers(min_value=0, max_value=10**16 - 1)


@given(epoch=numbers, seq=numbers)
def test_a_cursor_reads_back_from_its_text(epoch: int, seq: int) -> None:
    cursor = Cursor(epoch, seq)

    assert str(cursor) == f"{epoch}-{seq}"
    assert Cursor.parse(str(cursor)) == cursor


@given(epoch=numbers, seq=numbers)
def test_the_next_cursor_is_one_further_in_the_same_epoch(epoch: int, seq: int) -> None:
    assert Cursor(epoch, seq).next() == Cursor(epoch, seq + 1)


@given(numbers, numbers, numbers, numbers)
def test_cursors_are_ordered_by_their_numbers(epoch: int, seq: int, other: int, more: int) -> None:
    one, two = Cursor(epoch, seq), Cursor(other, more)
    smaller = (epoch, seq) < (other, more)
    same = (epoch, seq) == (other, more)

    assert (one < two, two > one, one == two) == (smaller, smaller, same)
    assert (one <= two, two >= one) == (smaller or same, smaller or same)
    assert (one < str(two), str(one) < two) == (smaller, smaller)


def test_a_cursor_is_text_for_every_encoder() -> None:
    class Answer(BaseModel):
        cursor: Cursor

    cursor = Cursor(1, 20)

    assert json.dumps({"cursor": cursor}) == '{"cursor": "1-20"}'
    assert Answer(cursor=cursor).model_dump_json() == '{"cursor":"1-20"}'
    assert f"{cursor}" == "1-20"


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_a_copy_of_a_cursor_is_that_cursor(again: Callable[[Cursor], Cursor]) -> None:
    cursor = again(Cursor(1, 20))

    assert (type(cursor), cursor, cursor.epoch, cursor.seq) == (Cursor, Cursor(1, 20), 1, 20)


def test_pydantic_reads_a_cursor_and_refuses_other_text() -> None:
    adapter = TypeAdapter(Cursor)

    assert adapter.validate_json('"1-20"').seq == 20
    for other in ('"1-x"', '"1-2\\n"', "[1, 20]"):
        with pytest.raises(ValidationError):
            adapter.validate_json(other)


def test_a_cursor_in_an_event_stays_a_cursor() -> None:
    topic = Topic("cursors", Cursor)

    assert topic.decode(topic.encode(Cursor(1, 20))).seq == 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1",
        "1-",
        "-1",
        "1--1",
        "1-2-3",
        "01-2",
        "1-02",
        "+1-2",
        "1_0-2",
        "1.0-2",
        " 1-2",
        "1-2\n",
        "1 - 2",
        "a-b",
        "\u0661-\u0662",
        "0-" + "9" * 17,
        "9" * 5000 + "-1",
        "$",
    ],
)
def test_an_invalid_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadUserInput, match="cursor"):
        Cursor.parse(text)


@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except BadUserInput:
        return
    assert str(cursor) == text


def test_an_event_is_a_value() -> None:
    event = Event("t", Cursor(1, 2), b"x")

    assert event == Event("t", Cursor(1, 2), b"x", None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.payload = b"y"  # type: ignore[misc]


# names


@pytest.mark.parametrize(
    "name", ["a", "tasks", "tasks.42", "A.b-c_d.e:f@g+h", "0", "-", "x" * MAX_TOPIC_LENGTH]
)
def test_a_name_of_segments_is_allowed(name: str) -> None:
    assert check_topic_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a\n",
        "a*",
        "a/b",
        "a{b}",
        "a<b>",
        "é",
        "\u0661",
        "a\0",
        "x" * (MAX_TOPIC_LENGTH + 1),
    ],
)
def test_an_invalid_topic_name_is_refused(name: str) -> None:
    with pytest.raises(BadUserInput):
        check_topic_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a.<b", "a.<>", "a.<b c>", "<1>", "a..<b>"])
def test_a_topic_whose_name_breaks_the_rules_is_refused(name: str) -> None:
    with pytest.raises(BadUserInput):
        Topic(name, int)


# patterns


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("tasks", "tasks", True),
        ("tasks", "tasks.1", False),
        ("tasks.*", "tasks.1", True),
        ("tasks.*", "tasks.1.2", True),
        ("tasks.*", "tasks.", True),
        ("tasks.*", "tasks", False),
        ("tasks.*", "other.tasks.1", False),
        ("*", "anything.at:all", True),
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("*.done", "a.done", True),
        ("*.done", "a.done.not", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a.b.b.c", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("a**b", "ab", True),
        ("a.b", "axb", False),
        ("a?", "ab", False),
        ("[ab]", "a", False),
        ("A", "a", False),
        ("*b*", "abc", True),
        ("*bc*c", "abc", False),
    ],
)
def test_a_star_stands_for_any_characters(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


@given(pattern=st.text("ab.*", max_size=8), name=st.text("ab.", max_size=10))
def test_a_pattern_fits_what_its_regular_expression_matches(pattern: str, name: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None

    assert matches(pattern, name) is expected


def test_a_pattern_of_many_stars_is_as_quick_as_any() -> None:
    # A matcher that backtracks would never finish this.
    assert not matches("*a" * 2000 + "*b", "a" * 4000)


# what can be published


@pytest.mark.parametrize("event_id", [None, "x", "x" * MAX_EVENT_ID_LENGTH, "é \0*{}"])
@pytest.mark.parametrize("payload", [b"", b"x" * 10])
def test_an_event_within_its_limits_can_be_published(payload: bytes, event_id: str | None) -> None:
    check_event(payload, event_id, max_bytes=10)


def test_an_event_that_is_too_large_is_refused_with_both_sizes() -> None:
    with pytest.raises(BadUserInput, match=r"10 bytes.*11"):
        check_event(b"x" * 11, None, max_bytes=10)


@pytest.mark.parametrize("event_id", ["", "x" * (MAX_EVENT_ID_LENGTH + 1)])
def test_an_event_id_that_is_empty_or_too_long_is_refused(event_id: str) -> None:
    with pytest.raises(BadUserInput, match=str(MAX_EVENT_ID_LENGTH)):
        check_event(b"x", event_id, max_bytes=10)


# parameters


def test_a_family_names_its_members() -> None:
    topic = Topic("rooms.<room>.<user>", int)

    assert topic(user="bob", room=7) == Topic("rooms.7.bob", int)
    assert topic(user="bob", room=7).concrete() == "rooms.7.bob"


def test_a_topic_without_parameters_is_its_own_member() -> None:
    assert Topic("tasks", int).concrete() == "tasks"
    assert Topic("tasks", int)() == Topic("tasks", int)


def test_a_family_itself_has_no_name_to_publish_under() -> None:
    with pytest.raises(BadUserInput, match="room, user"):
        Topic("rooms.<room>.<user>", int).concrete()


@pytest.mark.parametrize("values", [{}, {"id": 1, "more": 2}, {"other": 1}])
def test_missing_and_unknown_parameters_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(BadUserInput, match="id"):
        Topic("tasks.<id>", int)(**values)


@pytest.mark.parametrize("value", ["", "a.b", "a b", "*", "<id>", ".", None.__class__, "a\n"])
def test_a_parameter_can_not_leave_its_segment(value: object) -> None:
    with pytest.raises(BadUserInput, match="segment"):
        Topic("tasks.<id>", int)(id=value)


def test_a_member_whose_name_gets_too_long_is_refused() -> None:
    with pytest.raises(BadUserInput, match="200"):
        Topic("tasks.<id>", int)(id="x" * MAX_TOPIC_LENGTH)


ESCAPED = {
    "": "+",
    "alice": "alice",
    "alice@example.com": "alice@example+2Ecom",
    "+": "+2B",
    "a+b": "a+2Bb",
    "a b/*": "a+20b+2F+2A",
    "é": "+C3+A9",
    "\0": "+00",
    "+2E": "+2B2E",
    "A-Z_0:9": "A-Z_0:9",
}


@pytest.mark.parametrize(("text", "segment"), ESCAPED.items())
def test_any_text_becomes_one_segment_and_back(text: str, segment: str) -> None:
    assert escape_segment(text) == segment
    assert unescape_segment(segment) == text
    assert Topic("user.<name>", int)(name=segment).concrete() == f"user.{segment}"


@given(st.text(max_size=16), st.text(max_size=16))
def test_different_texts_never_make_the_same_segment(one: str, other: str) -> None:
    segment = escape_segment(one)
    assert unescape_segment(segment) == one
    assert check_topic_name(segment) == segment
    assert "." not in segment
    assert (segment == escape_segment(other)) is (one == other)


@given(st.text("+2E4b0123456789ABCDEF.a\ue9c3", max_size=8))
def test_an_invalid_escape_is_not_read(segment: str) -> None:
    try:
        text = unescape_segment(segment)
    except BadUserInput:
        return
    assert escape_segment(text) == segment


@pytest.mark.parametrize(
    "segment", ["", "a+", "++", "+2e", "+41", "+2", "+FF", "+C3", "a.b", "é", "a b", "+2B+"]
)
def test_a_segment_that_is_not_escaped_text_is_refused(segment: str) -> None:
    with pytest.raises(BadUserInput, match="escape_segment"):
        unescape_segment(segment)


@pytest.mark.parametrize(("text", "why"), [("é" * 40, "200.*240"), ("\ud800", "half")])
def test_a_text_that_makes_no_segment_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadUserInput, match=why):
        escape_segment(text)


def test_topics_of_one_name_and_type_are_equal() -> None:
    assert Topic("tasks", int) == Topic("tasks", int)
    topics: set[Topic[Any]] = {Topic("tasks", int), Topic("tasks", int)}
    assert len(topics) == 1
    assert len(topics | {Topic("tasks", str), Topic("other", int)}) == 3


# values


@pytest.mark.parametrize(("type_", "value"), VALUES)
def test_a_value_of_the_topics_type_reads_back_as_it_was(type_: Any, value: Any) -> None:
    topic = Topic("t", type_)

    decoded = topic.decode(topic.encode(value))

    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(("type_", "value"), MISFITS)
def test_a_value_of_another_type_is_refused_at_the_publisher(type_: Any, value: Any) -> None:
    with pytest.raises(InternalError, match="'t'"):
        Topic("t", type_).encode(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop

    with pytest.raises(InternalError):
        Topic("t", dict[str, Any]).encode(loop)


def test_a_payload_of_another_type_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="number"):
        Topic("t", Plain).decode(b'{"nummer": 1}')
    with pytest.raises(ValueError, match="json"):
        Topic("t", int).decode(b"\xff")


@dataclass
class Failing:
    key: str

    def __post_init__(self) -> None:
        raise KeyError(self.key)


def test_the_reason_why_a_payload_is_unreadable_contains_nothing_of_it() -> None:
    payloads = {
        dict[str, int]: b'{"se cret": "se cret"}',
        Plain: b'"secret"',
        Failing: b'{"key": "secret"}',
    }
    for type_, payload in payloads.items():
        with pytest.raises(ValueError, match="it is not") as caught:
            Topic[Any]("t", type_).decode(payload)
        assert "cret" not in "".join(traceback.format_exception(caught.value))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_any_json_reads_back_or_is_refused(value: Any) -> None:
    topic = Topic[Any]("t", Any)

    assert topic.decode(topic.encode(value)) == value
