"""Positions in this process, for the in-process broker."""

from collections.abc import Mapping, Sequence

from typing_extensions import override

from gqlnotify import clock
from gqlnotify.brokers.positions import Answer, Change, Claim, Claimed, Position, Positions, Saved

_SWEEP_EVERY = 256
_MEMORIES = {"": "this process"}


class MemoryPositions(Positions):
    """Keeps positions in a dict. They are lost with the process, like its topics."""

    def __init__(self) -> None:
        self._holders: dict[str, dict[str, Position]] = {}
        self._expiry: dict[str, float] = {}
        self._until_sweep = _SWEEP_EVERY

    @override
    async def save(self, changes: Sequence[Change], seconds: float) -> Saved:
        now = clock.monotonic()
        missing = {change.holder for change in changes if not self._save(change, now, seconds)}
        self._sweep_sometimes(now)
        return Saved(frozenset(missing), _MEMORIES)

    @override
    async def claim(self, claims: Sequence[Claim], seconds: float) -> Answer:
        now = clock.monotonic()
        return Answer([self._claim(claim, now, seconds) for claim in claims], _MEMORIES)

    @override
    async def memories(self) -> Mapping[str, str]:
        return _MEMORIES

    def _save(self, change: Change, now: float, seconds: float) -> bool:
        holders = self._alive(change.key, now)
        if change.position is None:
            holders.pop(change.holder, None)
        elif change.proves_life or change.holder in holders:
            holders[change.holder] = change.position
        else:
            return False
        self._keep(change.key, holders, now + seconds)
        return True

    def _claim(self, claim: Claim, now: float, seconds: float) -> Claimed | None:
        holders = self._alive(claim.key, now)
        if not holders:
            self._keep(claim.key, {claim.holder: Position(claim.start)}, now + seconds)
            return None
        predecessor = min(holders, key=lambda holder: holders[holder].acknowledged)
        position = holders.pop(predecessor)
        if holders:
            position = Position(position.acknowledged)
        holders[claim.holder] = Position(position.acknowledged)
        self._keep(claim.key, holders, now + seconds)
        return Claimed(position, predecessor)

    def _alive(self, key: str, now: float) -> dict[str, Position]:
        return self._holders.get(key, {}) if self._expiry.get(key, now) > now else {}

    def _keep(self, key: str, holders: dict[str, Position], until: float) -> None:
        if holders:
            self._holders[key], self._expiry[key] = holders, until
        else:
            self._holders.pop(key, None)
            self._expiry.pop(key, None)

    def _sweep_sometimes(self, now: float) -> None:
        # After as many calls as there are keys, so that each call costs a constant time.
        self._until_sweep -= 1
        if self._until_sweep > 0:
            return
        self._until_sweep = max(_SWEEP_EVERY, len(self._holders))
        for key, until in list(self._expiry.items()):
            if until <= now:
                self._keep(key, {}, now)
