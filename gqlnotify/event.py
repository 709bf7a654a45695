"""`Event`, `Topic` and `Cursor`: an event is published to a topic, and has a cursor. No I/O."""

import builtins
import re
import string
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
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
PRESENCE_TOPICS = f"{RESERVED}presence"
"""What the names of the topics begin with that say who is present at another topic."""
MAX_TOPIC_LENGTH = 200
MAX_EVENT_ID_LENGTH = 400
_TOPIC_NAME = re.compile(r"[A-Za-z0-9_:@+-]+(?:\.[A-Za-z0-9_:@+-]+)*")
_ESCAPE = "+"
_ESCAPED = re.compile(r"\+([0-9A-F]{2})")
_UNESCAPED = frozenset(string.ascii_letters + string.digits + "_-:@")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CURSOR = re.compile(r"(0|[1-9][0-9]{0,15})-(0|[1-9][0-9]{0,15})")


class Cursor(str):
    """A position in the history of a topic: the text `<epoch>-<seq>`, and its two numbers.

    `seq` counts without a gap within one `epoch`: the next event always has `seq + 1`, so a gap is
    visible. A new epoch, which has a larger number, begins when a history is created again, or when
    it may have lost its newest events.

    A cursor is a `str`, so every encoder (GraphQL, JSON, pydantic) sends it to clients as the text
    that they send back as `after`. Cursors are ordered by their numbers.
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
        """Parse `<epoch>-<seq>`.

        Raises:
            BadUserInput: `text` is not a cursor.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise BadUserInput(
                "A cursor looks like '<epoch>-<seq>', with two numbers, and this text does not"
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
    """A published value as the broker stores it.

    Attributes:
        topic: The name of the topic.
        cursor: The position in the topic's history.
        payload: The value, encoded as JSON.
        id: The id that the publisher gave the event, or None.
        published_at: When the broker received the event, in seconds since 1970 by its clock. None
            if it is not known.
    """

    topic: str
    cursor: Cursor
    payload: bytes
    id: str | None = None
    published_at: float | None = field(default=None, compare=False)


def check_topic_name(name: str) -> str:
    """Return `name` if it is a valid name of a topic.

    A name has at most 200 characters. It consists of segments that are joined by dots. A segment
    consists of ASCII letters, digits and `_ - : @ +`.

    Raises:
        BadUserInput: The name is not valid.
    """
    if len(name) > MAX_TOPIC_LENGTH:
        raise BadUserInput(
            f"A topic name has at most {MAX_TOPIC_LENGTH} characters, and this one {len(name)}"
        )
    if not _TOPIC_NAME.fullmatch(name):
        raise BadUserInput(
            "A topic name consists of segments that are joined by dots. A segment consists of "
            "ASCII letters, digits and _ - : @ +"
        )
    return name


def is_reserved(name: str) -> bool:
    """Return whether this name (or pattern) is reserved for the topics of gqlnotify itself."""
    return name.startswith(RESERVED)


def refuse_reserved(name: str) -> None:
    """Refuse a topic of gqlnotify itself, to which an application can't publish.

    Raises:
        BadUserInput: The name is reserved.
    """
    if is_reserved(name):
        raise BadUserInput("Topics whose names begin with 'gqlnotify.' are not for applications")


def check_event(payload: bytes, event_id: str | None, *, max_bytes: int) -> None:
    """Refuse an event that can't be published.

    Raises:
        BadUserInput: The payload is larger than `max_bytes`, or the id is empty, is too long or
            contains a surrogate, which UTF-8 can't encode.
    """
    if len(payload) > max_bytes:
        raise BadUserInput(f"An event has at most {max_bytes} bytes, and this one {len(payload)}")
    if event_id is not None and not 0 < len(event_id) <= MAX_EVENT_ID_LENGTH:
        raise BadUserInput(
            f"An event id has 1 to {MAX_EVENT_ID_LENGTH} characters, and this one {len(event_id)}"
        )
    if event_id is not None and _SURROGATE.search(event_id):
        raise BadUserInput("This event id contains half of a surrogate pair, which is not allowed")


def matches(pattern: str, name: str) -> bool:
    """Return whether `name` matches `pattern`, in which each `*` stands for any characters."""
    # Not a regular expression: with many stars it would backtrack. This reads the name only once.
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

    `Topic("tasks", TaskEvent)` is one topic. `Topic("tasks.<id>", TaskEvent)` is a family of topics
    with a parameter: `topic(id="42")` returns its member `tasks.42`. Only a member can be published
    and subscribed to.

    The type can be a Strawberry type, a dataclass, a pydantic model or a builtin: any type that
    pydantic can encode as JSON and decode. It can also be a union of classes or a Strawberry
    interface: each encoded value then contains the name of its class, as `__typename`.

    `latest_by` is a function that returns the key of a value. If several events of one key wait for
    a slow subscriber, it gets only the latest of them:
    `Topic("prices", Price, latest_by=lambda p: p.symbol)`. Events with the key None are never
    skipped.

    With `presence`, `TopicManager.present` and `TopicManager.presence` tell who is subscribed.

    Raises:
        BadUserInput: The name breaks the rules of `check_topic_name`.
        InternalError: `latest_by` is an `async def`.
    """

    name: str
    type: type[T]
    latest_by: Callable[[T], Hashable] | None = field(
        default=None, kw_only=True, repr=False, compare=False
    )
    presence: bool = field(default=False, kw_only=True, repr=False, compare=False)
    _parameters: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _codec: Codec = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:
        # A union is not a `type[T]`, so a type checker can't infer T from it. Write
        # `Topic[A | B]("x", A | B)`, or annotate the variable.
        @overload
        def __init__(
            self,
            name: str,
            type: builtins.type[T],
            *,
            latest_by: Callable[[T], Hashable] | None = None,
            presence: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self,
            name: str,
            type: UnionType | _SpecialForm,
            *,
            latest_by: Callable[[T], Hashable] | None = None,
            presence: bool = False,
        ) -> None: ...
        @overload
        def __init__(self, name: str, type: object, *, presence: bool = False) -> None: ...
        def __init__(self, name: str, type: Any, **options: Any) -> None: ...  # noqa: A002

    def __post_init__(self) -> None:
        require_plain(self.latest_by, "latest_by")
        parameters = tuple(re.findall(r"<([A-Za-z_][A-Za-z0-9_]*)>", self.name))
        check_topic_name(re.sub(r"<[A-Za-z_][A-Za-z0-9_]*>", "_", self.name))
        object.__setattr__(self, "_parameters", parameters)
        object.__setattr__(self, "_codec", codec_of(self.type))

    def __call__(self, **values: object) -> "Topic[T]":
        """Return the member of this family with these parameters.

        Raises:
            BadUserInput: A parameter is missing or unknown, or its value is not a valid segment.
        """
        if set(values) != set(self._parameters):
            expected = ", ".join(self._parameters) or "none"
            raise BadUserInput(f"Topic {self.name!r} takes these parameters: {expected}")
        name = self.name
        for parameter, value in values.items():
            name = name.replace(f"<{parameter}>", _segment(parameter, value))
        return replace(self, name=name)

    def member(self, name: str) -> "Topic[T] | None":
        """Return the topic with that name if it is this one or a member of this family, or None."""
        parts = re.split(r"<[A-Za-z_][A-Za-z0-9_]*>", self.name)
        if not re.fullmatch(r"[^.]+".join(map(re.escape, parts)), name):
            return None
        return replace(self, name=name)

    def concrete(self) -> str:
        """Return the name of a topic that has no open parameters.

        Raises:
            BadUserInput: A parameter has no value.
        """
        if self._parameters:
            raise BadUserInput(
                f"Topic {self.name!r} is a family: call it with {', '.join(self._parameters)} first"
            )
        return self.name

    def encode(self, value: T) -> bytes:
        """Encode `value` as JSON.

        Raises:
            InternalError: It does not have the topic's type, or it would decode as another value.
        """
        try:
            return self._codec.encode(value)
        except Unfit as error:
            raise InternalError(
                f"Topic {self.name!r} has the type {self._type_name()}, and this "
                f"{type(value).__name__} would not arrive as it is: {error}. Publish exactly that "
                "type. For several classes, use a union or a Strawberry interface as the type"
            ) from None

    def decode(self, payload: bytes) -> T:
        """Decode a payload that `encode` returned.

        Raises:
            ValueError: The payload has another type, for example that of an older publisher.
        """
        try:
            value: T = self._codec.decode(payload)
        except Unfit as error:
            raise ValueError(f"it is not {self._type_name()}: {error}") from None
        return value

    def _type_name(self) -> str:
        return self.type.__name__ if isinstance(self.type, type) else str(self.type)


def encode(topic: "Topic[T] | str", value: T) -> tuple[str, bytes]:
    """Return the name of a topic and the payload of `value`.

    If `topic` is only a name, the value can be any JSON value.

    Raises:
        BadUserInput: The name is not valid.
        InternalError: The value would decode as another value or type.
    """
    if not isinstance(topic, str):
        return topic.concrete(), topic.encode(value)
    try:
        return check_topic_name(topic), plain_json(value)
    except Unfit as error:
        raise InternalError(
            f"This {type(value).__name__} for {topic!r} would not arrive as it is: {error}. "
            "Publish to a Topic with a type, or publish a JSON value"
        ) from None


def escape_segment(text: str) -> str:
    """Return a segment of a topic name for any text.

    `user(name=escape_segment("alice@example.com"))` is `user.alice@example+2Ecom`. A segment can
    contain ASCII letters, digits and `_ - : @`. Each other byte of the text in UTF-8 becomes `+`
    and two hexadecimal digits. An empty text becomes `+`. Different texts have different segments.
    A segment contains no `.` and no `*`, so it can't leave a pattern of rights such as `user.*`.

    Raises:
        BadUserInput: The segment would be longer than a topic name can be, or `text` contains half
            of a surrogate pair, which UTF-8 can't encode.
    """
    try:
        segment = "".join(map(_escaped, text.encode())) or _ESCAPE
    except UnicodeEncodeError:
        raise BadUserInput(
            "This text contains half of a surrogate pair, which a topic name can't have"
        ) from None
    if len(segment) > MAX_TOPIC_LENGTH:
        raise BadUserInput(
            f"A topic name has at most {MAX_TOPIC_LENGTH} characters, and this text, escaped, "
            f"{len(segment)}. Use something shorter, for example a hash of the text"
        )
    return segment


def unescape_segment(segment: str) -> str:
    """Return the text whose segment `escape_segment` returned.

    Raises:
        BadUserInput: `escape_segment` never returns this segment.
    """
    try:
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), segment.removesuffix(_ESCAPE))
        text = text.encode("latin-1").decode()
        if escape_segment(text) == segment:
            return text
    except UnicodeError:
        pass
    raise BadUserInput("This is not a segment that escape_segment returns")


def _escaped(byte: int) -> str:
    character = chr(byte)
    return character if character in _UNESCAPED else f"{_ESCAPE}{byte:02X}"


def _segment(parameter: str, value: object) -> str:
    text = str(value)
    if "." in text or not _TOPIC_NAME.fullmatch(text):
        raise BadUserInput(
            f"The value of {parameter} is not a segment of a topic name, which consists of ASCII "
            "letters, digits and _ - : @ +. For any text, use escape_segment(...)"
        )
    return text
