"""The data of a Redis server, and the commands that our scripts use. Pure: no I/O, no clock.

The scripts themselves are the real ones: they run in a real Lua.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import inf
from typing import Any

from lupa.lua51 import LuaError, LuaRuntime

from gqlnotify.brokers.redis import scripts

Id = tuple[int, int]
Reply = Any
_MICROSECONDS = 1_000_000


class ResponseError(Exception):
    """What Redis answers instead of a reply."""


@dataclass
class Stream:
    """The entries of a stream, oldest first."""

    entries: list[tuple[Id, list[bytes]]] = field(default_factory=list)


@dataclass
class Memory:
    """All keys of a server, with the time in milliseconds at which each expires."""

    keys: dict[bytes, Any] = field(default_factory=dict)
    expiry: dict[bytes, float] = field(default_factory=dict)


class Commands:
    """The commands, on one memory at one time.

    Args:
        memory: What they change.
        us: The server's time, in microseconds since 1970.
        replication_id: Of the server.
        send: Called with a channel and a message.
    """

    def __init__(
        self,
        memory: Memory,
        us: int,
        replication_id: str,
        send: Callable[[bytes, bytes], None],
    ) -> None:
        self._memory = memory
        self._us = us
        self._replication_id = replication_id
        self._send = send
        # Once: time stands still while a script runs.
        for key in [key for key, at in memory.expiry.items() if at <= us / 1000]:
            self.delete(key)

    def run(self, name: str, *arguments: bytes) -> Reply:
        """Run one command."""
        return getattr(self, f"_{name.lower()}")(*arguments)

    def delete(self, key: bytes) -> int:
        self._memory.expiry.pop(key, None)
        return int(self._memory.keys.pop(key, None) is not None)

    def _of(self, key: bytes, kind: type[Any]) -> Any:
        return self._memory.keys.setdefault(key, kind())

    def _get_or(self, key: bytes, kind: type[Any]) -> Any:
        return self._memory.keys.get(key, kind())

    # Keys.

    def _time(self) -> Reply:
        seconds, us = divmod(self._us, _MICROSECONDS)
        return [b"%d" % seconds, b"%d" % us]

    def _info(self, _section: bytes) -> Reply:
        return f"# Replication\r\nmaster_replid:{self._replication_id}\r\n".encode()

    def _ping(self) -> Reply:
        return b"PONG"

    def _flushall(self) -> Reply:
        self._memory.keys.clear()
        self._memory.expiry.clear()
        return b"OK"

    def _del(self, key: bytes) -> Reply:
        return self.delete(key)

    def _get(self, key: bytes) -> Reply:
        return self._memory.keys.get(key)

    def _set(self, key: bytes, value: bytes, _only_if_new: bytes) -> Reply:
        if key in self._memory.keys:
            return None
        self._memory.keys[key] = value
        return b"OK"

    def _pexpire(self, key: bytes, ms: bytes, condition: bytes = b"") -> Reply:
        if key not in self._memory.keys:
            return 0
        until, known = self._us / 1000 + float(ms), self._memory.expiry.get(key)
        if (condition == b"NX" and known is not None) or (
            # A key without an expiry counts as one that never expires.
            condition == b"GT" and until <= (inf if known is None else known)
        ):
            return 0
        self._memory.expiry[key] = until
        return 1

    def _pttl(self, key: bytes) -> Reply:
        if key not in self._memory.keys:
            return -2
        until = self._memory.expiry.get(key)
        return -1 if until is None else int(until - self._us / 1000)

    def _publish(self, channel: bytes, message: bytes) -> Reply:
        self._send(channel, message)
        return 1

    # Hashes.

    def _hset(self, key: bytes, name: bytes, value: bytes) -> Reply:
        self._of(key, dict)[name] = value
        return 1

    def _hdel(self, key: bytes, name: bytes) -> Reply:
        found = self._get_or(key, dict).pop(name, None) is not None
        if not self._get_or(key, dict):
            self.delete(key)
        return int(found)

    def _hget(self, key: bytes, name: bytes) -> Reply:
        return self._get_or(key, dict).get(name)

    def _hexists(self, key: bytes, name: bytes) -> Reply:
        return int(name in self._get_or(key, dict))

    def _hgetall(self, key: bytes) -> Reply:
        return [each for pair in self._get_or(key, dict).items() for each in pair]

    # Sorted sets: a dict from members to scores.

    def _zadd(self, key: bytes, score: bytes, member: bytes) -> Reply:
        self._of(key, dict)[member] = float(score)
        return 1

    def _zscore(self, key: bytes, member: bytes) -> Reply:
        score = self._get_or(key, dict).get(member)
        return None if score is None else _digits(score)

    def _zrange(self, key: bytes, start: bytes, stop: bytes, _with_scores: bytes) -> Reply:
        ordered = _ordered(self._get_or(key, dict))[int(start) : int(stop) + 1]
        return [each for member, score in ordered for each in (member, _digits(score))]

    def _zrangebyscore(self, key: bytes, _low: bytes, high: bytes, *limit: bytes) -> Reply:
        ordered = _ordered(self._get_or(key, dict))
        found = [member for member, score in ordered if score <= float(high)]
        return found[: int(limit[-1])]

    def _zcard(self, key: bytes) -> Reply:
        return len(self._get_or(key, dict))

    def _zrem(self, key: bytes, member: bytes) -> Reply:
        found = self._get_or(key, dict).pop(member, None) is not None
        if not self._get_or(key, dict):
            self.delete(key)
        return int(found)

    def _zremrangebyrank(self, key: bytes, start: bytes, stop: bytes) -> Reply:
        ordered = _ordered(self._get_or(key, dict))
        last = int(stop) + len(ordered)
        return self._remove(key, [member for member, _ in ordered[int(start) : last + 1]])

    def _zremrangebyscore(self, key: bytes, _low: bytes, high: bytes) -> Reply:
        below = float(high.removeprefix(b"("))
        known = self._get_or(key, dict)
        return self._remove(key, [member for member, score in known.items() if score < below])

    def _remove(self, key: bytes, members: Sequence[bytes]) -> int:
        for member in members:
            del self._memory.keys[key][member]
        return len(members)

    # Streams.

    def _xadd(self, key: bytes, cursor: bytes, *fields: bytes) -> Reply:
        entries = self._of(key, Stream).entries
        id_ = _id(cursor)
        if entries and id_ <= entries[-1][0]:
            raise ResponseError(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item"
            )
        entries.append((id_, list(fields)))
        return cursor

    def _xinfo(self, _stream: bytes, key: bytes) -> Reply:
        stream = self._memory.keys.get(key)
        if stream is None:
            raise ResponseError("ERR no such key")
        first, last = stream.entries[0], stream.entries[-1]
        return [
            *(b"length", len(stream.entries)),
            *(b"first-entry", _entry(first), b"last-entry", _entry(last)),
        ]

    def _xrange(self, key: bytes, start: bytes, _end: bytes, _count: bytes, count: bytes) -> Reply:
        entries = self._get_or(key, Stream).entries
        low = (0, 0) if start == b"-" else _id(start.removeprefix(b"("))
        excluded = start.startswith(b"(")
        page = [entry for entry in entries if entry[0] > low or (entry[0] == low and not excluded)]
        return [_entry(entry) for entry in page[: int(float(count))]]

    def _xrevrange(self, key: bytes, _e: bytes, _s: bytes, _count: bytes, count: bytes) -> Reply:
        entries = self._get_or(key, Stream).entries
        return [_entry(entry) for entry in entries[::-1][: int(float(count))]]

    def _xtrim(self, key: bytes, kind: bytes, *limit: bytes) -> Reply:
        entries = self._of(key, Stream).entries
        if kind == b"MINID":
            kept = [entry for entry in entries if entry[0] >= _id(limit[-1])]
        else:
            kept = entries[-int(float(limit[-1])) :]
        removed = len(entries) - len(kept)
        entries[:] = kept
        return removed


class Interpreter:
    """Runs the scripts. A script is compiled once."""

    def __init__(self) -> None:
        self._lua = LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._compiled: dict[str, Any] = {}
        self._commands: Commands | None = None
        redis = self._lua.table()
        redis[b"call"], redis[b"pcall"] = self._call, self._pcall
        self._lua.globals()[b"redis"] = redis

    def run(
        self, text: str, commands: Commands, keys: Sequence[bytes], arguments: Sequence[bytes]
    ) -> Reply:
        """Run a script and return its reply."""
        self._commands = commands
        try:
            reply = self._function(text)(self._array(keys), self._array(arguments))
        except LuaError as error:
            raise ResponseError(str(error)) from error
        return self._from_lua(reply)

    def _function(self, text: str) -> Any:
        if text not in self._compiled:
            body = text.removeprefix("#!lua\n").encode()
            self._compiled[text] = self._lua.execute(
                b"return function(KEYS, ARGV) " + body + b"\nend"
            )
        return self._compiled[text]

    def _call(self, name: bytes, *arguments: Any) -> Any:
        assert self._commands is not None
        return self._to_lua(self._commands.run(name.decode(), *map(_digits, arguments)))

    def _pcall(self, name: bytes, *arguments: Any) -> Any:
        try:
            return self._call(name, *arguments)
        except ResponseError as error:
            return self._lua.table_from({b"err": str(error).encode()})

    def _array(self, items: Sequence[Any]) -> Any:
        return self._lua.table_from([self._to_lua(item) for item in items])

    def _to_lua(self, reply: Reply) -> Any:
        if reply is None:
            return False
        return self._array(reply) if isinstance(reply, list) else reply

    def _from_lua(self, value: Any) -> Reply:
        if value is None or value is False:
            return None
        if isinstance(value, bool | int | float):
            return int(value)
        if isinstance(value, bytes):
            return value
        return [self._from_lua(value[at]) for at in range(1, len(value) + 1)]


@cache
def script_texts() -> dict[str, str]:
    """Return the scripts of the library by their hash."""
    found = [each for each in vars(scripts).values() if isinstance(each, scripts.Script)]
    return {script.sha: script.text for script in found}


def _ordered(members: dict[bytes, float]) -> list[tuple[bytes, float]]:
    return sorted(members.items(), key=lambda item: (item[1], item[0]))


def _id(text: bytes) -> Id:
    ms, _, seq = text.partition(b"-")
    return int(ms), int(seq or 0)


def _entry(entry: tuple[Id, list[bytes]]) -> Reply:
    (ms, seq), fields = entry
    return [b"%d-%d" % (ms, seq), list(fields)]


def _digits(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return b"inf" if value == inf else (b"%d" % value if value.is_integer() else b"%r" % value)
    return str(value).encode()
