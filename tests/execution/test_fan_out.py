"""A batch reaches the members that its group had when it was collected, slice by slice."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from gqlnotify.event import Cursor, Event
from gqlnotify.event_loop import Visited
from gqlnotify.execution import fan_out
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.fan_out import FanOut, Member, Members
from gqlnotify.execution.pipeline import Collected
from gqlnotify.protocol.frames import Batch, SharedBody
from gqlnotify.topics.subscriber import Subscriber

BEFORE, AFTER = Cursor(1, 1), Cursor(1, 2)


class Idle(Member):
    """A member that does nothing."""

    def push(self, batch: Batch) -> bool:
        return True

    def lagged(self, subscriber: Subscriber) -> None:
        pass

    async def send(self, batch: Batch) -> None:
        pass

    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        pass

    def on_round(self) -> Iterable[Visited]:
        return ()


@pytest.fixture(autouse=True)
def slices_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_out, "SLICE_MEMBERS", 2)


def members_of(count: int) -> Members:
    members = Members()
    for _ in range(count):
        members.add(Idle())
    return members


def one_event() -> Collected:
    collected = Collected(BEFORE)
    body = SharedBody(json.dumps({"type": "next"}))
    collected.add(Event("topic", AFTER, b"1"), EncodedResult(AFTER, body))
    return collected


def slices(going: FanOut) -> Iterator[Sequence[Member]]:
    while not going.is_complete:
        yield going.next_slice()


@pytest.mark.parametrize("count", range(6))
def test_each_member_is_in_one_slice(count: int) -> None:
    members = members_of(count)
    served = list(slices(FanOut(one_event(), BEFORE, members)))
    assert [len(each) for each in served] == [2] * (count // 2) + [1] * (count % 2)
    assert {member for each in served for member in each} == members


def test_a_member_that_joins_later_is_not_served() -> None:
    members = members_of(3)
    going = FanOut(one_event(), BEFORE, members)
    late = Idle()
    members.add(late)
    assert late not in [member for each in slices(going) for member in each]
    assert going.has_served(late)


def test_between_two_slices_it_knows_which_members_were_served() -> None:
    members = members_of(5)
    going = FanOut(one_event(), BEFORE, members)
    assert not any(map(going.has_served, members))
    served = set[Member]()
    for each in slices(going):
        served.update(each)
        assert {member for member in members if going.has_served(member)} == served


def test_a_batch_without_messages_serves_no_member() -> None:
    going = FanOut(Collected(BEFORE), BEFORE, members_of(3))
    assert going.is_complete
    assert going.size == 0


def test_the_list_of_members_lasts_until_one_joins_or_leaves() -> None:
    members = members_of(3)
    first = members.listed()
    assert members.listed() is first
    joined = Idle()
    members.add(joined)
    assert set(members.listed()) == members
    members.discard(joined)
    assert set(members.listed()) == members == set(first)
