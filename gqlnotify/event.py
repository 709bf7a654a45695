"""What travels: an `Event` on a `Topic`, at a `Cursor`. Plain data, no I/O."""

import builtins
import re
import string
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, Self, overload

from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeVar, override

from gqlnotify.callables import require_plain
from gqlnotify.codec.codec import Codec, Unfit, codec_of, plain_json
from gqlnotify.errors import BadUserInput, InternalError

T = TypeVar("T", default=Any)

if TYPE_CHECKING:
    from typing import _SpecialForm

RESERVED = "gqlnotify."
MAX_TOPIC_LENGTH = 200
MAX_EVENT_ID_LENGTH = 400
_TOPIC_NAME = re.compile(r"[A-Za-z0-9_:@+-]+(?:\.[A-Za-z0-9_:@+-]+)*")
_ESCAPE = "+"
_ESCAPED = re.compile(r"\+([0-9A-F]{2})")
_UNESCAPED = frozenset(string.ascii_letters + string.digits + "_-:@")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CURSOR = re.compile(r"(0|[1-9][0-9]{0,15})-(0|[1-9][0-9]{0,15})")


class Cursor(str):
    """A position in one topic's history: the text `<epoch>-<seq>`, and its two numbers.

    `seq` counts without a hole within one `epoch`, so the next event is always `seq + 1` and a
    hole is visible. A new epoch, a number that only grows, begins when a history is created
    again, or when it may have lost its newest events.

    It is a text, so that every encoder (GraphQL, JSON, pydantic) sends clients what they send
    back as `after`. Cursors are ordered by their numbers.
    """

    __slots__ = ("epoch", "seq")

    epoch: int
    seq: int

    def __new__(cls, epoch: int, seq: int) -> Self:
        """Create the cursor of these two numbers."""
        self = super().__new__(cls, f"{epoch}-{seq}")
        self.epoch, self.seq = epoch, seq
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<epoch>-<seq>`.

        Raises:
            BadUserInput: `text` is not a cursor.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise BadUserInput(
                "A cursor looks like '<epoch>-<seq>', two numbers; this one does not"
            )
        return cls(int(match[1]), int(match[2]))

    def next(self) -> Self:
        """Return the position right after this one."""
        return type(self)(self.epoch, self.seq + 1)

    @override
    def __lt__(self, other: str) -> bool:
        return _numbers(self) < _numbers(other)

    @override
    def __le__(self, other: str) -> bool:
        return _numbers(self) <= _numbers(other)

    @override
    def __gt__(self, other: str) -> bool:
        return _numbers(self) > _numbers(other)

    @override
    def __ge__(self, other: str) -> bool:
        return _numbers(self) >= _numbers(other)

    @override
    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]  # those of `__new__`
        return self.epoch, self.seq

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        text = core_schema.str_schema(pattern=f"^{_CURSOR.pattern}$")
        return core_schema.no_info_after_validator_function(cls.parse, text)


def _numbers(cursor: str) -> tuple[int, int]:
    known = cursor if isinstance(cursor, Cursor) else Cursor.parse(cursor)
    return known.epoch, known.seq


@dataclass(frozen=True, slots=True)
class Event:
    """One published value as the broker keeps it: encoded, and in its place.

    `published_at` is when the broker took it, in seconds since 1970 by the broker's clock.
    """

    topic: str
    cursor: Cursor
    payload: bytes
    id: str | None = None
    published_at: float | None = field(default=None, compare=False)


def check_topic_name(name: str) -> str:
    """Return `name` if it may name a topic.

    A name is one or more segments joined by dots; a segment is made of ASCII letters, digits and
    `_ - : @ +`. At most 200 characters.

    Raises:
        BadUserInput: it may not, and why.
    """
    if len(name) > MAX_TOPIC_LENGTH:
        raise BadUserInput(f"A topic name has at most {MAX_TOPIC_LENGTH} characters")
    if not _TOPIC_NAME.fullmatch(name):
        raise BadUserInput(
            "A topic name is made of segments of letters, digits and _ - : @ + joined by dots"
        )
    return name


def is_reserved(name: str) -> bool:
    """Return whether the topic (or the pattern) of this name is gqlnotify's own."""
    return name.startswith(RESERVED)


def check_event(payload: bytes, event_id: str | None, *, max_bytes: int) -> None:
    """Refuse what can't be published.

    Raises:
        BadUserInput: the payload is larger than `max_bytes`, or the id is empty, too long or no
            text that UTF-8 can spell.
    """
    if len(payload) > max_bytes:
        raise BadUserInput(f"An event has at most {max_bytes} bytes; this one has {len(payload)}")
    if event_id is not None and not 0 < len(event_id) <= MAX_EVENT_ID_LENGTH:
        raise BadUserInput(f"An event id has 1 to {MAX_EVENT_ID_LENGTH} characters")
    if event_id is not None and _SURROGATE.search(event_id):
        raise BadUserInput("An event id has whole characters; this one holds half of one")


def matches(pattern: str, name: str) -> bool:
    """Return whether `name` fits `pattern`, in which each `*` stands for any text, or none."""
    # Not a regular expression: with many stars one backtracks, this walks the name once.
    head, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, tail = rest
    if len(name) < len(head) + len(tail) or not name.startswith(head) or not name.endswith(tail):
        return False
    position, end = len(head), len(name) - len(tail)
    for part in middle:
        found = name.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


@dataclass(frozen=True)
class Topic(Generic[T]):
    """A named stream of values of one type.

    `Topic("tasks", TaskEvent)` is one topic. `Topic("tasks.<id>", TaskEvent)` is a family:
    `topic(id="42")` names the member `tasks.42`, and only a member can be published or read.

    The type may be a Strawberry type, a dataclass, a pydantic model or a builtin: anything that
    pydantic can turn into JSON and back. It may be a union of classes or a Strawberry interface:
    the name of the class then travels with each value, as `__typename`.

    With `latest_by`, which makes a key of a value, a slow subscriber gets only the latest of the
    events of each key that wait for it: `Topic("prices", Price, latest_by=lambda p: p.symbol)`.
    What has the key None always comes.

    Raises:
        BadUserInput: the name breaks the rules of `check_topic_name`.
        InternalError: `latest_by` is an `async def`.
    """

    name: str
    type: type[T]
    latest_by: Callable[[T], Hashable] | None = field(
        default=None, kw_only=True, repr=False, compare=False
    )
    _parameters: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _codec: Codec = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:
        # A union is no `type[T]`, so a checker can't tell T from it: `Topic[A | B]("x", A | B)`,
        # or a variable that is annotated, says what it is.
        @overload
        def __init__(
            self,
            name: str,
            type: builtins.type[T],
            *,
            latest_by: Callable[[T], Hashable] | None = None,
        ) -> None: ...
        @overload
        def __init__(
            self,
            name: str,
            type: UnionType | _SpecialForm,
            *,
            latest_by: Callable[[T], Hashable] | None = None,
        ) -> None: ...
        @overload
        def __init__(self, name: str, type: object) -> None: ...
        def __init__(self, name: str, type: Any, *, latest_by: Any = None) -> None: ...  # noqa: A002

    def __post_init__(self) -> None:
        require_plain(self.latest_by, "latest_by")
        parameters = tuple(re.findall(r"<([A-Za-z_][A-Za-z0-9_]*)>", self.name))
        check_topic_name(re.sub(r"<[A-Za-z_][A-Za-z0-9_]*>", "_", self.name))
        object.__setattr__(self, "_parameters", parameters)
        object.__setattr__(self, "_codec", codec_of(self.type))

    def __call__(self, **values: object) -> "Topic[T]":
        """Return the member of this family that `values` name.

        Raises:
            BadUserInput: a parameter is missing, unknown, or its value can't be one segment.
        """
        if set(values) != set(self._parameters):
            expected = ", ".join(self._parameters) or "none"
            raise BadUserInput(f"Topic {self.name!r} takes these parameters: {expected}")
        name = self.name
        for parameter, value in values.items():
            name = name.replace(f"<{parameter}>", _segment(parameter, value))
        return Topic(name, self.type, latest_by=self.latest_by)

    def member(self, name: str) -> "Topic[T] | None":
        """Return the topic of that name, if it is this one or a member of this family."""
        parts = re.split(r"<[A-Za-z_][A-Za-z0-9_]*>", self.name)
        if not re.fullmatch(r"[^.]+".join(map(re.escape, parts)), name):
            return None
        return Topic(name, self.type, latest_by=self.latest_by)

    def concrete(self) -> str:
        """Return the name, once every parameter has its value.

        Raises:
            BadUserInput: a parameter is still open.
        """
        if self._parameters:
            raise BadUserInput(
                f"Topic {self.name!r} needs its parameters first: {', '.join(self._parameters)}"
            )
        return self.name

    def encode(self, value: T) -> bytes:
        """Return `value` as JSON.

        Raises:
            InternalError: it is not of the topic's type, or would read back as something else.
        """
        try:
            return self._codec.encode(value)
        except Unfit as error:
            raise InternalError(
                f"Topic {self.name!r} carries {self._type_name()}, and this "
                f"{type(value).__name__} would not arrive as it is: {error}. Publish exactly what "
                "the type says; for several classes make it a union of them, or a Strawberry "
                "interface that they implement"
            ) from None

    def decode(self, payload: bytes) -> T:
        """Return the value that `encode` made `payload` from.

        Raises:
            ValueError: the payload is of another type (an older or newer publisher's, say).
        """
        try:
            value: T = self._codec.decode(payload)
        except Unfit as error:
            raise ValueError(f"it is not {self._type_name()}: {error}") from None
        return value

    def _type_name(self) -> str:
        return self.type.__name__ if isinstance(self.type, type) else str(self.type)


def encode(topic: "Topic[T] | str", value: T) -> tuple[str, bytes]:
    """Return the name of a topic, and the payload that `value` makes for it.

    Without a `Topic` to check it, the value is whatever JSON can hold.

    Raises:
        BadUserInput: the name can't name a topic.
        InternalError: the value would not arrive as it is.
    """
    if not isinstance(topic, str):
        return topic.concrete(), topic.encode(value)
    try:
        return check_topic_name(topic), plain_json(value)
    except Unfit as error:
        raise InternalError(
            f"This {type(value).__name__} for {topic!r} would not arrive as it is: {error}. "
            "Publish under a Topic, which knows its type, or what JSON can hold"
        ) from None


def escape_segment(text: str) -> str:
    """Return one segment of a topic name that stands for `text`, whatever is in it.

    `user(name=escape_segment("alice@example.com"))` is `user.alice@example+2Ecom`. Each byte of
    UTF-8 that a segment can't hold, and `+` itself, becomes `+` and two hexadecimal digits, and
    the empty text becomes `+`. Two texts never make one segment, and a segment holds no `.` and no
    `*`, so it can't reach out of a pattern of rights such as `user.*`.

    Raises:
        BadUserInput: the segment would be longer than a topic name may be, or `text` has half of
            a surrogate pair, which UTF-8 can't spell.
    """
    try:
        segment = "".join(map(_escaped, text.encode())) or _ESCAPE
    except UnicodeEncodeError:
        raise BadUserInput("A segment has whole characters; this text holds half of one") from None
    if len(segment) > MAX_TOPIC_LENGTH:
        raise BadUserInput(
            f"A topic name has at most {MAX_TOPIC_LENGTH} characters; this text, escaped, has "
            f"{len(segment)}. Use something shorter for it, as a hash"
        )
    return segment


def unescape_segment(segment: str) -> str:
    """Return the text that `escape_segment` made `segment` from.

    Raises:
        BadUserInput: it did not.
    """
    try:
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), segment.removesuffix(_ESCAPE))
        text = text.encode("latin-1").decode()
        if escape_segment(text) == segment:
            return text
    except UnicodeError:
        pass
    raise BadUserInput("This segment was not made by escape_segment")


def _escaped(byte: int) -> str:
    character = chr(byte)
    return character if character in _UNESCAPED else f"{_ESCAPE}{byte:02X}"


def _segment(parameter: str, value: object) -> str:
    text = str(value)
    if "." in text or not _TOPIC_NAME.fullmatch(text):
        raise BadUserInput(
            f"{parameter} becomes one segment of a topic name: letters, digits and _ - : @ + only. "
            "escape_segment(...) makes one of any text"
        )
    return text
