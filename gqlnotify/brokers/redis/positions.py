"""Positions in Redis: one hash for each key, which expires."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from typing_extensions import override

from gqlnotify.brokers.positions import Answer, Change, Claim, Claimed, Position, Positions, Saved
from gqlnotify.brokers.redis import scripts
from gqlnotify.brokers.redis.scripts import Call, Names

# Redis runs one script at a time, so a longer one would delay the publishers.
_KEYS_A_CALL = 200

T = TypeVar("T")

Run = Callable[[Call], Awaitable[Any]]
"""Runs a script and returns its reply, or raises `BrokerUnavailable`."""


class RedisPositions(Positions):
    """Keeps positions in the Redis of a broker."""

    def __init__(self, names: Names, run: Run) -> None:
        self._names = names
        self._run = run

    @override
    async def save(self, changes: Sequence[Change], seconds: float) -> Saved:
        replies = await self._run_all(
            scripts.save_positions(self._names, part, seconds) for part in self._parts(changes)
        )
        missing = {holder.decode() for _, *holders in replies for holder in holders}
        return Saved(frozenset(missing), _memories(replies))

    @override
    async def claim(self, claims: Sequence[Claim], seconds: float) -> Answer:
        replies = await self._run_all(
            scripts.claim_positions(self._names, part, seconds) for part in self._parts(claims)
        )
        claimed = [_claimed(each) for _, *of_part in replies for each in of_part]
        return Answer(claimed, _memories(replies))

    @override
    async def memories(self) -> Mapping[str, str]:
        if self._names.clustered:
            # A script needs a key to find a server. Saves find out.
            return {}
        return _memories([await self._run(scripts.save_positions(self._names, (), 0))])

    def _parts(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        # The keys are in different hash slots, and a script of a cluster can use only one.
        size = 1 if self._names.clustered else _KEYS_A_CALL
        return (items[start : start + size] for start in range(0, len(items), size))

    async def _run_all(self, calls: Iterator[Call]) -> list[Any]:
        return await asyncio.gather(*map(self._run, calls))


def _memories(replies: Sequence[Any]) -> Mapping[str, str]:
    return {server.decode(): memory.decode() for (server, memory), *_ in replies}


def _claimed(reply: Sequence[bytes] | None) -> Claimed | None:
    if reply is None:
        return None
    acknowledged, _, sent = reply[0].partition(b" ")
    position = Position(
        scripts.parse_cursor(acknowledged), scripts.parse_cursor(sent) if sent else None
    )
    return Claimed(position, reply[1].decode())
