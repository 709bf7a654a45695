"""A published value reads back as it was, type included, or is refused."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import SimpleNamespace
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import strawberry
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from strawberry.scalars import JSON

from gqlnotify import Topic
from gqlnotify.codec.codec import Unfit, codec_of, require_support
from gqlnotify.codec.difference import difference

T = TypeVar("T")


@strawberry.type
class Added:
    id: int


@strawberry.type
class Removed:
    id: int


@strawberry.type(name="Renaming")
class Renamed:
    id: int
    name: str = ""


@dataclass
class Plain:
    id: int


@dataclass
class Wider(Plain):
    more: str = ""


class Modelled(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: int


class Validated(BaseModel):
    id: int

    @model_validator(mode="after")
    def positive(self) -> "Validated":
        return self


@dataclass
class Tree:
    branches: "list[Tree | Leaf]"


@dataclass
class Leaf:
    branches: "list[Tree | Leaf]" = field(default_factory=list)


class Odd(BaseModel):
    """Fields with the names of parts of a JSON schema."""

    type: Added | Removed
    fields: Added | Removed
    choices: list[Added | Removed]
    default: Added | Removed = Added(id=0)


class Holding(BaseModel):
    change: Added | Removed
    changes: list[Added | Removed] = []


Change = Annotated[Added | Removed, strawberry.union("Change")]


@strawberry.interface
class Notice:
    id: int


@strawberry.interface
class Urgent(Notice):
    level: int


@strawberry.type
class Mail(Notice):
    subject: str


@strawberry.type
class Alarm(Urgent):
    siren: bool = True


@strawberry.type
class Letter(Notice):
    subject: str
    inside: "Change | None" = None


class Unregistered(Mail):
    pass


@strawberry.type
class Box(Generic[T]):
    items: list[T]


@strawberry.type
class Everything:
    one: Change
    many: list[Added | Removed]
    maybe: Added | Removed | None
    either: Added | Removed | int
    notice: Notice
    notices: list[Notice]
    by_name: strawberry.Private[dict[str, Added | Removed]]
    secret: strawberry.Private[str] = "s"

    @strawberry.field
    def resolved(self) -> int:
        return 1


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Mood(StrEnum):
    GOOD = "good"


class Level(IntEnum):
    LOW = 1


EVERYTHING = Everything(
    one=Removed(id=1),
    many=[Added(id=1), Removed(id=1)],
    maybe=Removed(id=2),
    either=Removed(id=3),
    notice=Mail(id=4, subject="hi"),
    notices=[Alarm(id=5, level=2), Letter(id=6, subject="x", inside=Removed(id=7))],
    by_name={"a": Removed(id=8), "b": Added(id=8)},
)

COMES_BACK: list[tuple[Any, Any]] = [
    (Added | Removed, Removed(id=7)),
    (Removed | Added, Removed(id=7)),
    (Added | Removed, Added(id=7)),
    (Change, Removed(id=7)),
    (Change | None, Removed(id=7)),
    (Change | None, None),
    (Added | Removed | int, 5),
    (Added | Removed | int, Removed(id=5)),
    (Added | Renamed, Renamed(id=1, name="x")),
    (Added | Plain, Plain(id=1)),
    (Plain | Wider, Wider(id=1, more="x")),
    (Wider | Plain, Plain(id=1)),
    (Plain | Modelled, Modelled(id=1)),
    (Modelled | Validated, Validated(id=1)),
    (list[Added | Removed], [Removed(id=1), Added(id=1)]),
    (dict[str, Added | Removed], {"a": Removed(id=1)}),
    (tuple[Added | Removed, ...], (Removed(id=1), Added(id=1))),
    (Notice, Mail(id=7, subject="hi")),
    (Notice, Alarm(id=7, level=1)),
    (Urgent, Alarm(id=7, level=1, siren=False)),
    (Notice | Added, Added(id=1)),
    (Notice | Added, Mail(id=1, subject="x")),
    (Notice | None, None),
    (Box[Notice], Box(items=[Mail(id=1, subject="x")])),
    (Box[Added | Removed], Box(items=[Removed(id=1)])),
    (Box[Added] | Removed, Box(items=[Added(id=1)])),
    (Holding, Holding(change=Removed(id=1), changes=[Added(id=2), Removed(id=2)])),
    (Everything, EVERYTHING),
    (Tree, Tree([Leaf(), Tree([Leaf([Tree([])])])])),
    (Odd, Odd(type=Removed(id=1), fields=Removed(id=2), choices=[Removed(id=3)])),
    (Odd | Plain, Odd(type=Removed(id=1), fields=Removed(id=2), choices=[], default=Removed(id=1))),
    (int | bool, True),
    (int | bool, 1),
    (int | float, 1),
    (int | float, 1.0),
    (float, 1),
    (str | int, "1"),
    (datetime | str, "hello"),
    (Decimal, Decimal("1.10")),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
    (datetime, datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Berlin"))),
    (time, time(1, 2, tzinfo=UTC)),
    (timedelta, timedelta(days=-1, microseconds=7)),
    (bytes, b"text"),
    (set[int | bool], {True, 2}),
    (frozenset[Colour], frozenset(Colour)),
    (deque[int], deque([1, 2])),
    (dict[Colour, int], {Colour.RED: 1}),
    (dict[int, int], {1: 2}),
    (Colour | str, "red"),
    (Literal[1, "1"], "1"),
    (JSON, {"a": [1, None, 1.5, "x"]}),
    (float, -0.0),
]

REFUSED: list[tuple[Any, Any]] = [
    (datetime | str, "2026-01-01T00:00:00Z"),
    (UUID | str, str(UUID(int=1))),
    (Colour | str, Colour.RED),
    (int, True),
    (float, True),
    (float, 2**60 + 1),
    (str, Mood.GOOD),
    (int, Level.LOW),
    (float, float("nan")),
    (float | None, float("nan")),
    (list[float | None], [1.0, float("inf")]),
    (dict[str, float | None], {"a": float("-inf")}),
    (Decimal | float, Decimal("NaN")),
    (Any, (1, 2)),
    (Any, {1: "a"}),
    (Any, datetime(2026, 1, 1, tzinfo=UTC)),
    (Any, Added(id=1)),
    (dict[str, Any], {"a": {1, 2}}),
    (Sequence[int], (1, 2)),
    (Plain, Wider(id=1, more="lost")),
    (list[Plain], [Wider(id=1, more="lost")]),
    (Plain | None, Wider(id=1, more="lost")),
    (Added, Removed(id=1)),
    (Added | Removed, Plain(id=1)),
    (Added | Removed, {"id": 1}),
    (Added | Removed | int, "5"),
    (Notice, Notice(id=1)),
    (Notice, Unregistered(id=1, subject="x")),
    (Notice, Added(id=1)),
    (Added | dict[str, Any], {"id": 1}),
    (list[Added] | list[Removed], [Removed(id=1)]),
    (SecretStr, SecretStr("hunter2")),
    (list[int], (1, 2)),
    (set[int], frozenset({1})),
    (int | None, strawberry.UNSET),
]


def sure(type_: Any, value: Any) -> Any:
    codec = codec_of(type_)
    payload = codec.encode(value)
    json.loads(payload, parse_constant=pytest.fail)
    return codec.decode(payload)


@pytest.mark.parametrize(("type_", "value"), COMES_BACK)
def test_a_value_reads_back_as_it_was(type_: Any, value: Any) -> None:
    found = sure(type_, value)
    assert type(found) is type(value) or (type(value) is int and type_ is float)
    assert found == value
    assert difference(value, found) is None


@pytest.mark.parametrize(("type_", "value"), REFUSED)
def test_a_value_that_would_read_back_as_another_is_refused(type_: Any, value: Any) -> None:
    with pytest.raises(Unfit) as caught:
        codec_of(type_).encode(value)
    assert "hunter2" not in str(caught.value)


def test_two_orders_of_a_union_are_two_types() -> None:
    one, other = Topic[Any]("t", datetime | str), Topic[Any]("t", str | datetime)
    assert codec_of(datetime | str) is not codec_of(str | datetime)
    assert codec_of(list[int | bool]) is not codec_of(list[bool | int])
    assert codec_of(datetime | str) is codec_of(datetime | str)
    assert one == other


@pytest.mark.parametrize(
    ("type_", "value", "payload"),
    [
        (Added, Added(id=1), b'{"id":1}'),
        (Added | None, Added(id=1), b'{"id":1}'),
        (Added | int, Added(id=1), b'{"id":1}'),
        (list[Plain], [Plain(id=1)], b'[{"id":1}]'),
        (Box[Added], Box(items=[Added(id=1)]), b'{"items":[{"id":1}]}'),
        (float, 1, b"1.0"),
        (Added | Removed, Removed(id=1), b'{"__typename":"Removed","id":1}'),
        (Added | Renamed, Renamed(id=1), b'{"__typename":"Renaming","id":1,"name":""}'),
        (Notice, Mail(id=1, subject="s"), b'{"__typename":"Mail","id":1,"subject":"s"}'),
    ],
)
def test_the_name_of_a_class_is_encoded_only_if_several_classes_are_possible(
    type_: Any, value: Any, payload: bytes
) -> None:
    assert codec_of(type_).encode(value) == payload


@pytest.mark.parametrize(
    ("type_", "payload", "value"),
    [
        (Added | Renamed, b'{"id":1}', Added(id=1)),
        (Added | Renamed, b'{"id":1,"name":"x"}', Renamed(id=1, name="x")),
        (Notice, b'{"id":1,"subject":"x"}', Mail(id=1, subject="x")),
        (Notice, b'{"id":1,"level":2,"siren":true}', Alarm(id=1, level=2)),
        (Added | Removed | int, b"5", 5),
    ],
)
def test_events_from_before_a_type_was_a_union_are_read_where_one_class_fits(
    type_: Any, payload: bytes, value: Any
) -> None:
    assert codec_of(type_).decode(payload) == value


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        (Added | Removed, b'{"id":1}'),
        (Added | Removed, b'{"__typename":"Renaming","id":1}'),
        (Added | Removed, b'{"__typename":1,"id":1}'),
        (Added | Removed, b'{"__typename":["Added"],"id":1}'),
        (Added | Removed, b'{"__typename":"Added"}'),
        (Added | Removed, b'{"__typename":"Added","id":"hunter2"}'),
        (Added | Removed, b'"hunter2"'),
        (Notice, b'{"__typename":"Notice","id":1}'),
        (Notice, b'{"__typename":"Unregistered","id":1,"subject":"s"}'),
    ],
)
def test_an_object_that_is_of_no_single_class_is_unreadable(type_: Any, payload: bytes) -> None:
    with pytest.raises(Unfit) as caught:
        codec_of(type_).decode(payload)
    assert "hunter2" not in str(caught.value)


def test_an_implementation_that_is_defined_later_is_read_as_well() -> None:
    @strawberry.interface
    class Later:
        id: int

    codec = codec_of(list[Later])

    @strawberry.type
    class Implementation(Later):
        name: str

    value = [Implementation(id=1, name="x")]
    assert codec.decode(codec.encode(value)) == value


def test_two_classes_of_the_same_name_are_refused_if_the_name_would_be_ambiguous() -> None:
    def another(other: type) -> Any:
        @strawberry.type(name="Added")
        class Same:
            id: other  # type: ignore[valid-type]

        return Same

    same, different = another(int), another(str)
    with pytest.raises(Unfit):
        codec_of(Added | same).encode(same(id=1))
    assert sure(Added | different, different(id="x")) == different(id="x")


def test_a_refusal_names_the_field_and_the_types_but_no_value() -> None:
    @dataclass
    class Outer:
        by_name: dict[str, list[Plain]] = field(default_factory=dict)

    value = Outer({"a b": [Plain(1), Wider(1, "hunter2")]})
    with pytest.raises(Unfit, match=r"^Wider at by_name\.\*\.1 reads back as Plain$"):
        codec_of(Outer).encode(value)
    with pytest.raises(Unfit, match=r"^by_name\.\*\.0\.id int_parsing$"):
        codec_of(Outer).encode(Outer({"a b": [Plain("hunter2")]}))  # type: ignore[arg-type]


class Hiding(BaseModel):
    shown: int = 0
    left_out: int = Field(default=0, exclude=True)
    _private: int = PrivateAttr(0)


class Pair(NamedTuple):
    left: int
    right: int


class Bag:
    def __init__(self, **content: Any) -> None:
        self.__dict__.update(content)


def test_a_field_that_pydantic_leaves_out_is_noticed() -> None:
    codec_of(Hiding).encode(Hiding(shown=1))
    with pytest.raises(Unfit, match="left_out"):
        codec_of(Hiding).encode(Hiding(left_out=1))
    private = Hiding()
    private._private = 1
    with pytest.raises(Unfit, match="_private"):
        codec_of(Hiding).encode(private)


DIFFERENT: list[tuple[Any, Any]] = [
    ({1}, {True}),
    (frozenset({(1,)}), frozenset({(True,)})),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1: "x"}, {True: "x"}),
    ([1], [1, 2]),
    (Pair(1, 2), Pair(1, True)),
    (Bag(a=1), Bag(a=True)),
    (SimpleNamespace(a=1), SimpleNamespace(a=2)),
    (time(1, tzinfo=UTC), time(1)),
    (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))),
    (date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),
    (float("nan"), float("nan")),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_equal_values_of_different_types_are_different(one: Any, other: Any) -> None:
    assert difference(one, other) is not None
    assert difference(other, one) is not None


# Round trips of generated types


LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(10**20), 10**20)),
    (bool, st.booleans()),
    (float, st.floats()),
    (str, st.text() | st.sampled_from(["1", "true", "2026-01-01", "red", str(UUID(int=1))])),
    (datetime, st.datetimes() | st.datetimes(timezones=st.timezones())),
    (date, st.dates()),
    (timedelta, st.timedeltas()),
    (Decimal, st.decimals()),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Mood, st.sampled_from(Mood)),
    (type(None), st.none()),
    (Added, st.builds(Added, id=st.integers(-9, 9))),
    (Removed, st.builds(Removed, id=st.integers(-9, 9))),
    (Renamed, st.builds(Renamed, id=st.integers(-9, 9), name=st.text(max_size=3))),
    (Modelled, st.builds(Modelled, id=st.integers(-9, 9))),
    (Notice, st.builds(Mail, id=st.integers(-9, 9), subject=st.text(max_size=3))),
]
Typed = tuple[Any, st.SearchStrategy[Any]]


def union_of(members: list[Typed]) -> Typed:
    type_, strategy = members[0]
    for another, other_strategy in members[1:]:
        type_, strategy = type_ | another, strategy | other_strategy
    return type_, strategy


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda typed: (_of(list, typed[0]), st.lists(typed[1], max_size=3))),
        inner.map(lambda typed: (_of(dict, (str, typed[0])), _dicts(typed[1]))),
        inner.map(lambda typed: (_of(Box, typed[0]), st.lists(typed[1], max_size=3).map(_box))),
        st.lists(inner, min_size=1, max_size=3).map(union_of),
    )


def _of(generic: Any, arguments: Any) -> Any:
    return generic[arguments]


def _dicts(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.text(max_size=3), values, max_size=3)


def _box(items: list[Any]) -> Box[Any]:
    return Box(items=items)


types = st.recursive(
    st.lists(st.sampled_from(LEAVES), min_size=1, max_size=4).map(union_of), containers
)


@given(st.data(), types)
def test_a_published_value_reads_back_or_is_refused(data: st.DataObject, typed: Typed) -> None:
    type_, strategy = typed
    value = data.draw(strategy)
    try:
        found = sure(type_, value)
    except Unfit:
        return
    assert difference(value, found) is None


@given(st.data(), types)
def test_unions_and_interfaces_of_objects_are_never_refused(
    data: st.DataObject, typed: Typed
) -> None:
    objects = [leaf for leaf in LEAVES if leaf[0] in {Added, Removed, Renamed, Modelled, Notice}]
    type_, strategy = union_of(data.draw(st.lists(st.sampled_from(objects), min_size=1)))
    value = data.draw(st.lists(strategy))
    assert sure(_of(list, type_ | None), [*value, None]) == [*value, None]


def test_mappings_of_another_kind_are_not_the_same() -> None:
    with pytest.raises(Unfit):
        codec_of(Mapping[str, int]).encode({"a": True})


def test_a_pydantic_that_lacks_what_is_needed_is_refused_by_name() -> None:
    def older(schema: object, config: object = None) -> None:
        """Has no `_use_prebuilt`, as in pydantic 2.12."""

    require_support()
    for lacking in ({"validator": older}, {"serializer": older}):
        with pytest.raises(ImportError, match=r"does not work with pydantic \d"):
            require_support(**lacking)
