"""The scripts' arguments and replies, and the names of keys. Pure: no I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from typing import Any

from gqlnotify.brokers.positions import Change, Claim, Position
from gqlnotify.brokers.presence import Patience, Registration
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.settings import Bounds

# The keys of a topic live a little longer than its events. So a client that was disconnected for a
# short time, and missed nothing, can resume.
_GRACE_SECONDS = 60.0

# In a cluster, each topic that a client may subscribe to gets an empty history. If no process
# listens to the topic, it expires soon.
_EMPTY_SECONDS = 120.0


_PRESENCE_KEYS = ("since", "members", "due", "revisions")


@dataclass(frozen=True)
class Script:
    """A Lua script, which Redis identifies by the hash of its text."""

    text: str

    @cached_property
    def sha(self) -> str:
        """The hash for EVALSHA."""
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
        """The command for a server that does not know the script yet."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


def _script(*names: str, first: str = "") -> Script:
    folder = files(__package__)
    return Script(first + "\n".join((folder / f"{name}.lua").read_text() for name in names))


# The line `#!lua` makes Redis refuse the whole script if it is full, read-only or can't save.
# Without it, a script that has written once may continue to write beyond `maxmemory`. The other
# scripts do not have the line: they must work on a full Redis, for the topics that exist.
PUBLISH = _script("history", "append", "publish", first="#!lua\n")
HEAD, READ = _script("history", "head"), _script("history", "read")
OLDEST, BEGIN = _script("history", "oldest"), _script("history", "begin")
SAVE_POSITIONS = _script("positions", "save_positions", first="#!lua\n")
CLAIM_POSITIONS = _script("positions", "claim_positions")
_PRESENCE = ("history", "append", "presence")
UPDATE_PRESENCE = _script(*_PRESENCE, "presence_update", first="#!lua\n")
BEAT_PRESENCE = _script(*_PRESENCE, "presence_beat")
REMOVE_PRESENCE = _script(*_PRESENCE, "presence_remove")
LIST_PRESENCE = _script(*_PRESENCE, "presence_list")


@dataclass(frozen=True, slots=True)
class Names:
    """The keys and channels of topics. Those of one topic are in one hash slot of a cluster."""

    prefix: str
    clustered: bool

    def stream(self, topic: str) -> str:
        """Return the key of the topic's history. It is the name of its channel too."""
        return f"{self.prefix}:{{{topic}}}"

    def keys(self, topic: str) -> tuple[str, str]:
        """Return the keys of the topic: its history, and the set of its event ids."""
        return self.stream(topic), f"{self.stream(topic)}:ids"

    def script_keys(self, topic: str) -> tuple[str, ...]:
        """Return the keys that a script takes: its own keys and, except in a cluster, `begun`."""
        begun = () if self.clustered else (f"{self.prefix}:begun",)
        return *self.keys(topic), *begun

    def presence(self, presence_topic: str, process: str) -> tuple[str, ...]:
        """Return the keys of a presence topic: those of its history, and those of the members."""
        own = (f"of:{process}",)
        stored = (f"{self.stream(presence_topic)}:{name}" for name in (*_PRESENCE_KEYS, *own))
        return *self.script_keys(presence_topic), *stored

    def positions(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return the keys of positions and, except in a cluster, the marker."""
        marker = () if self.clustered else (f"{self.prefix}:positions",)
        return *(f"{self.prefix}:position:{key}" for key in keys), *marker

    def topic(self, channel: str) -> str:
        """Return the topic of a channel."""
        return channel[len(self.prefix) + 2 : -1]


def lifetime(bounds: Bounds) -> int:
    """Return after how many milliseconds the keys of an unused topic expire."""
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


def save_positions(names: Names, changes: Sequence[Change], seconds: float) -> Call:
    """Call save_positions.lua."""
    keys = names.positions(change.key for change in changes)
    arguments: list[str | int] = [_lasting(seconds), int(not names.clustered)]
    for change in changes:
        arguments += (change.holder, _text(change.position), int(change.proves_life))
    return Call(SAVE_POSITIONS, keys, tuple(arguments))


def claim_positions(names: Names, claims: Sequence[Claim], seconds: float) -> Call:
    """Call claim_positions.lua."""
    keys = names.positions(claim.key for claim in claims)
    holders = (each for claim in claims for each in (claim.holder, claim.start))
    return Call(CLAIM_POSITIONS, keys, (_lasting(seconds), int(not names.clustered), *holders))


def presence(
    script: Script,
    names: Names,
    registration: Registration,
    patience: Patience,
    bounds: Bounds,
    command: str,
    arguments: Iterable[str | bytes | int],
) -> Call:
    """Call one of the scripts for presence. `command` is PUBLISH, or SPUBLISH on a cluster."""
    topic = registration.presence_topic
    limits = (bounds.length, _milliseconds(bounds), lifetime(bounds))
    times = (int(patience.silence * 1000), int(patience.grace * 1000))
    common = (len(names.script_keys(topic)), *limits, command, registration.process, *times)
    return Call(script, names.presence(topic, registration.process), (*common, *arguments))


def empty_lifetime(bounds: Bounds) -> int:
    """Return after how many milliseconds an unused history without events expires in a cluster."""
    return min(lifetime(bounds), int(_EMPTY_SECONDS * 1000))


def _text(position: Position | None) -> str:
    if position is None:
        return ""
    cursors = (position.acknowledged, position.sent)
    return " ".join(cursor for cursor in cursors if cursor is not None)


def _lasting(seconds: float) -> int:
    return max(int(seconds * 1000), 1)


def parse_cursor(reply: bytes) -> Cursor:
    """Parse the reply of publish.lua, head.lua and oldest.lua."""
    epoch, _, seq = reply.partition(b"-")
    return Cursor(int(epoch), int(seq))


def parse_page(topic: str, reply: Sequence[Any] | None) -> list[Event]:
    """Parse the reply of read.lua.

    Raises:
        CursorExpired: The history does not reach back to the cursor.
    """
    if reply is None:
        raise CursorExpired(f"The history of {topic!r} does not reach back to this cursor")
    return [_event(topic, entry_id, fields) for entry_id, fields in reply]


def parse_message(topic: str, data: bytes) -> Event:
    """Parse a live message of publish.lua.

    It consists of `<cursor> <length of the id> <us since 1970>`, a newline, the id and the payload.
    Earlier versions do not send the time.

    Raises:
        ValueError: Gqlnotify did not send the message.
    """
    head, newline, rest = data.partition(b"\n")
    cursor, length, *times = head.split(b" ")
    event_id, payload = rest[: int(length)], rest[int(length) :]
    if not newline or len(event_id) != int(length):
        raise ValueError("This is not a message of publish.lua")
    published_at = int(times[0]) / 1_000_000 if times else None
    return Event(topic, parse_cursor(cursor), payload, event_id.decode() or None, published_at)


def _event(topic: str, entry_id: bytes, fields: Sequence[bytes]) -> Event:
    known = dict(zip(fields[::2], fields[1::2], strict=True))
    published_at = int(known[b"t"]) / 1000
    event_id = known[b"i"].decode() or None
    return Event(topic, parse_cursor(entry_id), known[b"p"], event_id, published_at)


def _ages(bounds: Bounds) -> tuple[int, int, int]:
    return _milliseconds(bounds), lifetime(bounds), empty_lifetime(bounds)


def _milliseconds(bounds: Bounds) -> int:
    return int(bounds.seconds * 1000)
