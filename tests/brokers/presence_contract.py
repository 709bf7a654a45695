"""One test for each promise of `gqlnotify.brokers.presence`, over every broker."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC
from uuid import uuid4

import pytest

from gqlnotify.brokers import Broker
from gqlnotify.brokers.presence import (
    CHANGES_AT_ONCE,
    Change,
    Patience,
    Registration,
    decode_event,
    presence_topic,
)
from gqlnotify.event import Cursor, Event
from tests.waiting import wait_until

LONG = Patience(60, 60)
NO_GRACE = Patience(0, 60)
BRIEF_GRACE = Patience(0.02, 60)
BRIEF_SILENCE = Patience(60, 0.02)
ALL = 1_000_000
A_WHILE = 0.05


class Stage:
    """The members of one topic at a broker, and what processes do there."""

    def __init__(self, broker: Broker) -> None:
        self.presence = broker.presence
        self.presence_topic = presence_topic(f"rooms.{uuid4().hex}")
        self._broker = broker
        self._start: Cursor
        self._revisions: dict[str, int] = {}

    async def begin(self) -> None:
        self._start = (await self.presence.present(self.presence_topic, ALL)).cursor

    async def update(self, process: str, *changes: Change, patience: Patience = LONG) -> bool:
        confirmed = self._revisions.get(process, 0)
        registration = Registration(self.presence_topic, process, confirmed)
        saved = await self.presence.update(registration, confirmed + 1, changes, patience)
        self._revisions[process] = confirmed + saved
        return saved

    async def connect(self, process: str, subject: str, connections: int = 1) -> None:
        assert await self.update(process, Change(subject, connections))

    async def beat(self, process: str = "", patience: Patience = LONG) -> bool:
        registration = Registration(self.presence_topic, process, self._revisions.get(process, 0))
        [has_all] = await self.presence.beat([registration], patience)
        return has_all

    async def remove(self, process: str, patience: Patience = LONG) -> None:
        await self.presence.remove(Registration(self.presence_topic, process), patience)

    async def published(self) -> Sequence[Event]:
        return await self._broker.read(self.presence_topic, self._start, ALL)

    async def events(self) -> list[str]:
        decoded = [decode_event(json.loads(each.payload)) for each in await self.published()]
        return [f"{event.member.subject} {type(event).__name__.lower()}" for event in decoded]

    async def subjects(self) -> list[str]:
        present = await self.presence.present(self.presence_topic, ALL)
        return [member.subject for member in present.members]

    async def beats_until_seen(self, *events: str) -> None:
        async def are_seen() -> bool:
            await self.beat()
            return await self.events() == list(events)

        await wait_until(are_seen)


class PresenceContract:
    @pytest.fixture
    async def stage(self, broker: Broker) -> Stage:
        stage = Stage(broker)
        await stage.begin()
        return stage

    async def test_a_subject_joins_once_however_many_connections_it_has(self, stage: Stage) -> None:
        await stage.connect("p", "alice", 1)
        await stage.connect("p", "alice", 2)
        await stage.connect("q", "alice", 3)

        assert await stage.events() == ["alice joined"]
        [alice] = (await stage.presence.present(stage.presence_topic, ALL)).members
        assert (alice.subject, alice.state, alice.connections) == ("alice", None, 5)
        [joined] = await stage.published()
        assert joined.published_at is not None
        assert abs(alice.since.timestamp() - joined.published_at) < 1
        assert alice.since.tzinfo is UTC

    async def test_a_subject_leaves_after_its_last_connection_and_its_grace(
        self, stage: Stage
    ) -> None:
        await stage.connect("p", "alice")
        await stage.connect("q", "alice")
        await stage.update("p", Change("alice", 0), patience=BRIEF_GRACE)
        await asyncio.sleep(A_WHILE)
        await stage.beat("p")
        assert await stage.events() == ["alice joined"]

        await stage.update("q", Change("alice", 0), patience=BRIEF_GRACE)

        assert await stage.subjects() == ["alice"]
        await stage.beats_until_seen("alice joined", "alice left")
        assert await stage.subjects() == []

    async def test_a_subject_who_comes_back_in_time_never_left(self, stage: Stage) -> None:
        await stage.connect("p", "alice")
        await stage.update("p", Change("alice", 0), patience=BRIEF_GRACE)
        await stage.connect("q", "alice")
        await asyncio.sleep(A_WHILE)
        await stage.beat("p")

        assert await stage.events() == ["alice joined"]

    async def test_a_state_is_announced_if_it_is_another_one(self, stage: Stage) -> None:
        await stage.update("p", Change("alice", 1, b'{"typing":true}'))
        await stage.update("q", Change("alice", state=b'{"typing":true}'))
        await stage.update("q", Change("alice", state=b'"\\u00e9 and \'\\"]"'))

        assert await stage.events() == ["alice joined", "alice changed", "alice changed"]
        [alice] = (await stage.presence.present(stage.presence_topic, ALL)).members
        assert (alice.state, alice.connections) == ("é and '\"]", 1)

    async def test_true_is_another_state_than_one(self, stage: Stage) -> None:
        await stage.update("p", Change("alice", 1, b"1"))
        await stage.update("p", Change("alice", state=b"true"))
        await stage.update("p", Change("alice", state=b"true"))

        assert await stage.events() == ["alice joined", "alice changed", "alice changed"]

    async def test_a_state_of_a_subject_who_is_not_there_has_no_effect(self, stage: Stage) -> None:
        await stage.update("p", Change("alice", state=b"1"))

        assert await stage.events() == []
        assert await stage.subjects() == []

    @pytest.mark.parametrize("subject", ["", "a b", 'quote " and \\', "é 😀", "null", "a\x00b"])
    async def test_a_subject_is_any_text(self, stage: Stage, subject: str) -> None:
        await stage.connect("p", subject)

        assert await stage.subjects() == [subject]
        assert await stage.events() == [f"{subject} joined"]

    async def test_the_first_members_are_listed_and_all_are_counted(self, stage: Stage) -> None:
        for subject in ("carol", "alice", "bob"):
            await stage.connect("p", subject)
            await asyncio.sleep(0.002)

        present = await stage.presence.present(stage.presence_topic, 2)

        assert [member.subject for member in present.members] == ["carol", "alice"]
        assert present.count == 3

    async def test_events_after_the_cursor_of_a_list_lead_on_from_it(
        self, broker: Broker, stage: Stage
    ) -> None:
        await stage.connect("p", "alice")
        present = await stage.presence.present(stage.presence_topic, ALL)
        await stage.connect("p", "bob")

        [event] = await broker.read(stage.presence_topic, present.cursor, ALL)
        assert decode_event(json.loads(event.payload)).member.subject == "bob"

    async def test_events_are_sent_live(
        self, broker: Broker, stage: Stage, delivered: Sequence[object]
    ) -> None:
        await broker.subscribe(stage.presence_topic)
        await stage.connect("p", "alice")

        await wait_until(lambda: len(delivered) == 1)
        assert list(delivered) == await stage.published()

    async def test_the_subjects_of_a_silent_process_leave_without_grace(self, stage: Stage) -> None:
        await stage.update(
            "dead", Change("alice", 1), Change("bob", 2), patience=Patience(60, 0.02)
        )
        await stage.connect("alive", "bob")

        await stage.beats_until_seen("alice joined", "bob joined", "alice left")
        [bob] = (await stage.presence.present(stage.presence_topic, ALL)).members
        assert bob.connections == 1
        assert not await stage.beat("dead")

    async def test_a_process_that_beats_keeps_its_subjects(self, stage: Stage) -> None:
        await stage.update("p", Change("alice", 1), patience=BRIEF_SILENCE)
        assert await stage.beat("p")
        await asyncio.sleep(A_WHILE)
        await stage.beat()

        assert await stage.events() == ["alice joined"]

    async def test_a_process_that_was_silent_itself_lets_the_others_come_back_first(
        self, stage: Stage
    ) -> None:
        await stage.update("p", Change("alice", 1), patience=BRIEF_SILENCE)
        await stage.update("q", Change("bob", 1), patience=BRIEF_SILENCE)
        await asyncio.sleep(A_WHILE)

        assert await stage.beat("p")
        assert await stage.beat("q")
        await stage.beat()

        assert await stage.events() == ["alice joined", "bob joined"]

    async def test_a_process_that_was_removed_has_to_register_again(self, stage: Stage) -> None:
        await stage.connect("p", "alice")
        await stage.remove("p", NO_GRACE)

        assert not await stage.update("p", Change("bob", 1))
        assert not await stage.beat("p")
        assert await stage.events() == ["alice joined", "alice left"]

    async def test_a_process_that_registers_under_a_new_name_announces_nothing(
        self, stage: Stage
    ) -> None:
        await stage.connect("old", "alice")
        await stage.connect("new", "alice")
        await stage.remove("old", NO_GRACE)

        assert await stage.events() == ["alice joined"]
        [alice] = (await stage.presence.present(stage.presence_topic, ALL)).members
        assert alice.connections == 1

    async def test_the_subjects_of_a_process_that_is_removed_have_their_grace(
        self, stage: Stage
    ) -> None:
        await stage.connect("p", "alice")
        await stage.remove("p", BRIEF_GRACE)

        assert await stage.subjects() == ["alice"]
        await stage.beats_until_seen("alice joined", "alice left")

    async def test_saving_the_same_again_has_no_effect(self, stage: Stage) -> None:
        change = Change("alice", 2, b"1")
        for _ in range(2):
            registration = Registration(stage.presence_topic, "p", 0)
            assert await stage.presence.update(registration, 1, [change], LONG)

        assert await stage.events() == ["alice joined", "alice changed"]
        [alice] = (await stage.presence.present(stage.presence_topic, ALL)).members
        assert alice.connections == 2

    async def test_two_that_let_subjects_leave_at_once_announce_each_once(
        self, stage: Stage
    ) -> None:
        subjects = [f"s{n}" for n in range(5)]
        changes = [Change(subject, 1) for subject in subjects]
        await stage.update("dead", *changes, patience=Patience(60, 0.01))
        await stage.connect("p", "alice")
        await stage.update("p", Change("alice", 0), patience=Patience(0.01, 60))
        await asyncio.sleep(A_WHILE)

        await asyncio.gather(*(stage.beat() for _ in range(8)))

        left = sorted(each for each in await stage.events() if each.endswith("left"))
        assert left == sorted(f"{subject} left" for subject in [*subjects, "alice"])

    async def test_many_join_in_one_step_and_leave_with_their_process(self, stage: Stage) -> None:
        for start in range(0, 1500, CHANGES_AT_ONCE):
            changes = [Change(f"s{start + n}", 1) for n in range(CHANGES_AT_ONCE)]
            assert await stage.update("dead", *changes, patience=Patience(60, 2))
        assert (await stage.presence.present(stage.presence_topic, 10)).count == 1500

        await stage.update("dead", Change("last", 1), patience=Patience(60, 0.01))
        await self._until_empty(stage)

    async def test_many_whose_grace_is_over_leave_in_one_beat(self, stage: Stage) -> None:
        names = [f"s{n}" for n in range(2 * CHANGES_AT_ONCE)]
        for connections, patience in ((1, LONG), (0, Patience(0.01, 60))):
            for start in range(0, len(names), CHANGES_AT_ONCE):
                some = names[start : start + CHANGES_AT_ONCE]
                changes = [Change(name, connections) for name in some]
                await stage.update("p", *changes, patience=patience)
        await asyncio.sleep(A_WHILE)
        await stage.beat("p")

        assert await stage.subjects() == []

    async def _until_empty(self, stage: Stage) -> None:
        async def is_empty() -> bool:
            await stage.beat()
            return not await stage.subjects()

        await wait_until(is_empty)
