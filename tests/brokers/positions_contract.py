"""One test for each promise of `gqlnotify.brokers.positions`, over every broker."""

from collections.abc import Sequence
from uuid import uuid4

import pytest

from gqlnotify.brokers import Broker
from gqlnotify.brokers.positions import Change, Claim, Claimed, Position
from gqlnotify.event import Cursor
from tests.waiting import wait_until

LONG = 60.0
BRIEF = 0.01


def cursor(seq: int) -> Cursor:
    return Cursor(1795700028547000, seq)


START = cursor(7)


class PositionsContract:
    @pytest.fixture
    def key(self) -> str:
        return uuid4().hex

    async def test_a_new_holder_gets_the_position_and_who_had_it(
        self, broker: Broker, key: str
    ) -> None:
        saved = Position(cursor(3), cursor(5))
        await self._save(broker, key, "first", saved)

        assert await self._claim(broker, key, "second") == Claimed(saved, "first")

    async def test_a_key_that_was_never_saved_has_no_position(
        self, broker: Broker, key: str
    ) -> None:
        assert await self._claim(broker, key, "first") is None

    async def test_a_holder_without_a_predecessor_has_its_own_start(
        self, broker: Broker, key: str
    ) -> None:
        await self._claim(broker, key, "first")

        assert await self._claim(broker, key, "second") == Claimed(Position(START), "first")

    async def test_a_position_is_taken_over_and_not_lost_by_a_claim(
        self, broker: Broker, key: str
    ) -> None:
        await self._save(broker, key, "first", Position(cursor(3), cursor(5)))
        await self._claim(broker, key, "second")

        # The second one may have sent anything before its process was killed.
        taken = Claimed(Position(cursor(3)), "second")
        assert await self._claim(broker, key, "third") == taken

    async def test_a_claim_that_is_repeated_finds_the_same_position(
        self, broker: Broker, key: str
    ) -> None:
        await self._save(broker, key, "first", Position(cursor(3)))
        await self._claim(broker, key, "second")

        again = await self._claim(broker, key, "second")
        assert again is not None
        assert again.position.acknowledged == cursor(3)
        assert await self._claim(broker, key, "third") == Claimed(Position(cursor(3)), "second")

    async def test_of_several_holders_the_one_that_is_furthest_behind_is_taken_over(
        self, broker: Broker, key: str
    ) -> None:
        # As text, 10 comes before 9.
        for holder, seq in (("ahead", 10), ("behind", 9)):
            await self._save(broker, key, holder, Position(cursor(seq)))
        later = Cursor(cursor(1).epoch + 1, 1)
        await self._save(broker, key, "later", Position(later))

        assert await self._claim(broker, key, "new") == Claimed(Position(cursor(9)), "behind")

    async def test_what_was_sent_is_unknown_if_there_are_several_holders(
        self, broker: Broker, key: str
    ) -> None:
        await self._save(broker, key, "ended", Position(cursor(3), cursor(4)))
        await self._save(broker, key, "running", Position(cursor(5)))

        assert await self._claim(broker, key, "new") == Claimed(Position(cursor(3)), "ended")

    async def test_a_position_that_was_taken_over_is_not_saved_without_a_proof(
        self, broker: Broker, key: str
    ) -> None:
        await self._save(broker, key, "first", Position(cursor(3)))
        await self._claim(broker, key, "second")

        missing = await self._save(broker, key, "first", Position(cursor(1)), proves_life=False)
        assert missing == {"first"}
        assert await self._claim(broker, key, "third") == Claimed(Position(cursor(3)), "second")

        assert not await self._save(broker, key, "first", Position(cursor(1)))
        assert await self._claim(broker, key, "fourth") == Claimed(Position(cursor(1)), "first")

    async def test_a_deleted_position_is_gone(self, broker: Broker, key: str) -> None:
        await self._save(broker, key, "first", Position(cursor(3)))
        await self._save(broker, key, "first", None)

        assert await self._claim(broker, key, "second") is None

    async def test_a_position_is_forgotten_after_its_time(self, broker: Broker, key: str) -> None:
        await broker.positions.save([Change(key, "first", Position(cursor(3)), True)], BRIEF)

        async def is_forgotten() -> bool:
            answer = await broker.positions.claim([Claim(key, "second", START)], BRIEF)
            return answer.claimed == [None]

        await wait_until(is_forgotten)

    async def test_many_changes_and_claims_are_answered_in_their_order(
        self, broker: Broker
    ) -> None:
        keys = [uuid4().hex for _ in range(450)]
        changes = [
            Change(key, "first", Position(cursor(n + 1)), n % 2 == 0) for n, key in enumerate(keys)
        ]
        saved = await broker.positions.save(changes, LONG)
        answer = await broker.positions.claim([Claim(key, "second", START) for key in keys], LONG)

        assert saved.missing == {"first"}
        assert saved.memories == answer.memories
        assert [one and one.position.acknowledged.seq for one in answer.claimed] == [
            n + 1 if n % 2 == 0 else None for n in range(450)
        ]

    async def _save(
        self,
        broker: Broker,
        key: str,
        holder: str,
        position: Position | None,
        *,
        proves_life: bool = True,
    ) -> frozenset[str]:
        changes: Sequence[Change] = [Change(key, holder, position, proves_life)]
        return (await broker.positions.save(changes, LONG)).missing

    async def _claim(self, broker: Broker, key: str, holder: str) -> Claimed | None:
        answer = await broker.positions.claim([Claim(key, holder, START)], LONG)
        [claimed] = answer.claimed
        return claimed
