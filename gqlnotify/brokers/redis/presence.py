"""Presence in Redis: a few keys for each topic, in one hash slot with its presence topic."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from gqlnotify.brokers.presence import (
    Change,
    Member,
    Patience,
    Presence,
    Present,
    Registration,
    decode_member,
)
from gqlnotify.brokers.redis import scripts
from gqlnotify.brokers.redis.positions import Run
from gqlnotify.brokers.redis.scripts import Names, Script
from gqlnotify.brokers.redis.topology import ONE_SERVER, SHARDED
from gqlnotify.settings import Retention

_NO_PATIENCE = Patience(0, 0)
# Fewer than the commands that the broker sends at once, so that publishing does not wait for all.
_BEATS_AT_ONCE = 16


class RedisPresence(Presence):
    """Keeps presence in the Redis of a broker."""

    def __init__(self, names: Names, retention: Retention, run: Run) -> None:
        self._names = names
        self._retention = retention
        self._run = run

    @override
    async def update(
        self,
        registration: Registration,
        revision: int,
        changes: Sequence[Change],
        patience: Patience,
    ) -> bool:
        arguments: list[str | bytes | int] = [registration.confirmed, revision]
        for change in changes:
            connections = "" if change.connections is None else change.connections
            arguments += (json.dumps(change.subject), connections, change.state or "")
        reply = await self._call(scripts.UPDATE_PRESENCE, registration, patience, *arguments)
        return bool(reply)

    @override
    async def beat(
        self, registrations: Sequence[Registration], patience: Patience
    ) -> Sequence[bool]:
        turns = asyncio.Semaphore(_BEATS_AT_ONCE)

        async def beat_in_turn(registration: Registration) -> bool:
            async with turns:
                return await self._beat(registration, patience)

        return await asyncio.gather(*map(beat_in_turn, registrations))

    async def _beat(self, registration: Registration, patience: Patience) -> bool:
        confirmed = registration.confirmed
        while True:
            has_all, more, *silent = await self._call(
                scripts.BEAT_PRESENCE, registration, patience, confirmed
            )
            for process in silent:
                dead = Registration(registration.presence_topic, process.decode())
                await self._remove(dead, Patience(0, patience.silence), leaves=False)
            if not more:
                return bool(has_all)

    @override
    async def remove(self, registration: Registration, patience: Patience) -> None:
        await self._remove(registration, patience, leaves=True)

    async def _remove(
        self, registration: Registration, patience: Patience, *, leaves: bool
    ) -> None:
        while await self._call(scripts.REMOVE_PRESENCE, registration, patience, int(leaves)):
            pass

    @override
    async def present(self, presence_topic: str, limit: int) -> Present:
        empty = scripts.empty_lifetime(self._retention.of(presence_topic))
        cursor, count, *members = await self._call(
            scripts.LIST_PRESENCE, Registration(presence_topic), _NO_PATIENCE, limit, empty
        )
        return Present([_member(each) for each in members], count, scripts.parse_cursor(cursor))

    async def _call(
        self,
        script: Script,
        registration: Registration,
        patience: Patience,
        *arguments: str | bytes | int,
    ) -> Any:
        call = scripts.presence(
            script,
            self._names,
            registration,
            patience,
            self._retention.of(registration.presence_topic),
            SHARDED if self._names.clustered else ONE_SERVER,
            arguments,
        )
        return await self._run(call)


def _member(reply: Sequence[bytes]) -> Member:
    subject, since, connections, state = reply
    return decode_member(
        subject=json.loads(subject),
        state=json.loads(state),
        connections=int(connections),
        since=float(since),
    )
