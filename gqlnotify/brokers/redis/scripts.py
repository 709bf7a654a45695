"""What is said to Redis and what it answers. Pure: no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from typing import Any

from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.settings import Bounds

# The place of a topic outlives its events by a while: who was there all along, and only looked
# away, finds that nothing was missed.
_GRACE_SECONDS = 60.0

# In a cluster anyone who may subscribe can make empty histories: one that no process listens to
# ends soon.
_EMPTY_SECONDS = 120.0


@dataclass(frozen=True)
class Script:
    """A Lua script; Redis knows it by the hash of its text."""

    text: str

    @cached_property
    def sha(self) -> str:
        """What EVALSHA takes."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a script."""

    script: Script
    keys: tuple[str, ...]
    arguments: tuple[str | bytes | int, ...]

    @property
    def evalsha(self) -> tuple[Any, ...]:
        """The command for a server that knows the script."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments)

    @property
    def eval(self) -> tuple[Any, ...]:
        """The command for one that does not yet."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


def _script(name: str, *, first: str = "") -> Script:
    folder = files(__package__)
    parts = (folder / "history.lua", folder / f"{name}.lua")
    return Script(first + "\n".join(part.read_text() for part in parts))


# This line has Redis refuse the script as a whole if it is full, read-only or can't save. Without
# it, a script that has written once may write on beyond `maxmemory`. The other scripts go without:
# they serve the topics that a full Redis has.
PUBLISH = _script("publish", first="#!lua\n")
HEAD, READ, OLDEST = _script("head"), _script("read"), _script("oldest")
BEGIN = _script("begin")


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of topics. A topic's keys and its channel are in one hash slot of a cluster."""

    prefix: str
    clustered: bool

    def stream(self, topic: str) -> str:
        """Return the key of the topic's history, which is its channel's name as well."""
        return f"{self.prefix}:{{{topic}}}"

    def keys(self, topic: str) -> tuple[str, str]:
        """Return both keys: the history and the set of its event ids."""
        return self.stream(topic), f"{self.stream(topic)}:ids"

    def script_keys(self, topic: str) -> tuple[str, ...]:
        """Return what every script takes: both keys, and when all topics began if that is kept."""
        begun = () if self.clustered else (f"{self.prefix}:begun",)
        return *self.keys(topic), *begun

    def topic(self, channel: str) -> str:
        """Return the topic of a channel."""
        return channel[len(self.prefix) + 2 : -1]


def lifetime(bounds: Bounds) -> int:
    """Return how long the keys of an unused topic live, in milliseconds."""
    return int((2 * bounds.seconds + _GRACE_SECONDS) * 1000)


def publish(
    keys: tuple[str, ...], payload: bytes, event_id: str | None, bounds: Bounds, command: str
) -> Call:
    """Call publish.lua. `command` is PUBLISH, or SPUBLISH on a cluster."""
    limits = (bounds.length, _milliseconds(bounds), lifetime(bounds))
    return Call(PUBLISH, keys, (payload, event_id or "", *limits, command))


def head(keys: tuple[str, ...], bounds: Bounds) -> Call:
    """Call head.lua."""
    return Call(HEAD, keys, _ages(bounds))


def oldest(keys: tuple[str, ...], bounds: Bounds) -> Call:
    """Call oldest.lua."""
    return Call(OLDEST, keys, _ages(bounds))


def begin(keys: tuple[str, ...], bounds: Bounds) -> Call:
    """Call begin.lua."""
    return Call(BEGIN, keys, (lifetime(bounds),))


def read(keys: tuple[str, ...], after: Cursor, limit: int, bounds: Bounds) -> Call:
    """Call read.lua."""
    return Call(READ, keys, (str(after), limit, _milliseconds(bounds)))


def parse_cursor(reply: bytes) -> Cursor:
    """Read the answer of publish.lua, head.lua and oldest.lua."""
    epoch, _, seq = reply.partition(b"-")
    return Cursor(int(epoch), int(seq))


def parse_page(topic: str, reply: Sequence[Any] | None) -> list[Event]:
    """Read the answer of read.lua.

    Raises:
        CursorExpired: the history does not reach back to the cursor.
    """
    if reply is None:
        raise CursorExpired(f"The history of {topic!r} does not reach back to this cursor")
    return [_event(topic, entry_id, fields) for entry_id, fields in reply]


def parse_message(topic: str, data: bytes) -> Event:
    """Read what publish.lua sends live: `<cursor> <length of the id> <us since 1970>`, a newline,
    id and payload. An earlier one did not send the time.

    Raises:
        ValueError: it was not sent by gqlnotify.
    """
    head, newline, rest = data.partition(b"\n")
    cursor, length, *times = head.split(b" ")
    event_id, payload = rest[: int(length)], rest[int(length) :]
    if not newline or len(event_id) != int(length):
        raise ValueError("This is no message of publish.lua")
    published_at = int(times[0]) / 1_000_000 if times else None
    return Event(topic, parse_cursor(cursor), payload, event_id.decode() or None, published_at)


def _event(topic: str, entry_id: bytes, fields: Sequence[bytes]) -> Event:
    known = dict(zip(fields[::2], fields[1::2], strict=True))
    published_at = int(known[b"t"]) / 1000
    event_id = known[b"i"].decode() or None
    return Event(topic, parse_cursor(entry_id), known[b"p"], event_id, published_at)


def _ages(bounds: Bounds) -> tuple[int, int, int]:
    life = lifetime(bounds)
    return _milliseconds(bounds), life, min(life, int(_EMPTY_SECONDS * 1000))


def _milliseconds(bounds: Bounds) -> int:
    return int(bounds.seconds * 1000)
