"""The newest events of a topic, in order and without a gap."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify.event import Cursor, Event
from gqlnotify.topics.replay_buffer import NotBuffered, ReplayBuffer

EPOCH = 1_000


def event(seq: int, epoch: int = EPOCH) -> Event:
    return Event("t", Cursor(epoch, seq), b"%d" % seq)


def buffer_of(last: int = 0, *, size: int = 5, holding: Iterable[int] = ()) -> ReplayBuffer:
    buffer = ReplayBuffer(Cursor(EPOCH, last), size=size)
    buffer.extend(event(seq) for seq in holding)
    return buffer


def read(buffer: ReplayBuffer, after: int) -> list[int]:
    position, seen = Cursor(EPOCH, after), list[int]()
    while (found := buffer.after(position)) is not None:
        position = found.cursor
        seen.append(position.seq)
    return seen


def test_the_next_event_is_taken() -> None:
    buffer = buffer_of(3)

    assert buffer.offer(event(4))
    assert (buffer.last, buffer.stale) == (Cursor(EPOCH, 4), False)


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_repeat_is_dropped_and_is_no_gap(seq: int) -> None:
    buffer = buffer_of(3)

    assert not buffer.offer(event(seq))
    assert (buffer.last, buffer.stale) == (Cursor(EPOCH, 3), False)


@pytest.mark.parametrize("later", [event(5), event(99), event(4, EPOCH + 1), event(1, EPOCH - 1)])
def test_a_later_event_and_one_of_another_epoch_make_the_buffer_stale(later: Event) -> None:
    buffer = buffer_of(3)

    assert not buffer.offer(later)
    assert (buffer.last, buffer.stale) == (Cursor(EPOCH, 3), True)


def test_a_stale_buffer_stays_stale_until_it_is_extended() -> None:
    buffer = buffer_of(3)
    buffer.offer(event(6))

    buffer.offer(event(4))
    buffer.offer(event(4))
    assert buffer.stale


def test_extending_skips_events_that_arrived_in_the_meantime() -> None:
    buffer = buffer_of(3, holding=[4, 5])

    buffer.extend(event(seq) for seq in (4, 5, 6))
    assert read(buffer, 3) == [4, 5, 6]


def test_only_the_newest_events_are_held() -> None:
    buffer = buffer_of(0, size=3, holding=range(1, 11))

    assert read(buffer, 7) == [8, 9, 10]
    with pytest.raises(NotBuffered):
        buffer.after(Cursor(EPOCH, 6))


def test_after_the_newest_event_there_is_none() -> None:
    assert buffer_of(3).after(Cursor(EPOCH, 3)) is None
    assert buffer_of(3).after(Cursor(EPOCH, 4)) is None


def test_a_position_before_the_first_event_is_not_buffered() -> None:
    with pytest.raises(NotBuffered):
        buffer_of(3).after(Cursor(EPOCH, 2))


def test_a_position_of_another_epoch_is_not_buffered() -> None:
    for epoch in (EPOCH - 1, EPOCH + 1):
        with pytest.raises(NotBuffered):
            buffer_of(3).after(Cursor(epoch, 3))


def test_after_a_restart_earlier_positions_are_not_buffered() -> None:
    buffer = buffer_of(0, holding=[1, 2])
    buffer.restart(Cursor(EPOCH, 9))

    with pytest.raises(NotBuffered):
        buffer.after(Cursor(EPOCH, 2))
    assert buffer.offer(event(10))
    assert read(buffer, 9) == [10]


def test_a_restart_does_not_change_whether_the_buffer_is_stale() -> None:
    buffer = buffer_of(3)
    buffer.offer(event(1, EPOCH + 1))
    buffer.restart(Cursor(EPOCH + 1, 0))

    assert buffer.stale


def test_extending_follows_the_history_into_another_epoch() -> None:
    buffer = buffer_of(3, holding=[4])
    buffer.extend([event(5), event(6, EPOCH + 7), event(7, EPOCH + 7), event(8, EPOCH + 9)])

    assert buffer.last == Cursor(EPOCH + 9, 8)
    assert read(buffer, 3) == [4, 5, 6, 7, 8]
    assert buffer.offer(event(9, EPOCH + 9))


def test_the_live_path_does_not_lead_into_another_epoch() -> None:
    buffer = buffer_of(3)

    assert not buffer.offer(event(4, EPOCH + 1))
    assert (buffer.last, buffer.stale) == (Cursor(EPOCH, 3), True)


# which positions it holds


def test_a_buffer_holds_the_position_before_its_first_event_and_each_one_after() -> None:
    buffer = buffer_of(3, holding=[4, 5])

    held = [seq for seq in range(9) if buffer.reaches_back_to(Cursor(EPOCH, seq))]
    assert held == [3, 4, 5]


def test_of_evicted_positions_only_the_last_one_is_buffered() -> None:
    buffer = buffer_of(0, size=3, holding=range(1, 11))

    held = [seq for seq in range(12) if buffer.reaches_back_to(Cursor(EPOCH, seq))]
    assert held == [7, 8, 9, 10]


def test_an_empty_buffer_holds_only_its_own_position() -> None:
    buffer = buffer_of(3)

    assert buffer.reaches_back_to(Cursor(EPOCH, 3))
    for elsewhere in (Cursor(EPOCH, 2), Cursor(EPOCH, 4), Cursor(EPOCH + 1, 3)):
        assert not buffer.reaches_back_to(elsewhere)


def test_a_buffer_holds_positions_of_several_epochs() -> None:
    buffer = buffer_of(3, holding=[4])
    buffer.extend([event(5, EPOCH + 7), event(6, EPOCH + 7)])

    positions = {3: EPOCH, 4: EPOCH, 5: EPOCH + 7, 6: EPOCH + 7}
    for seq, own in positions.items():
        for epoch in (EPOCH - 1, EPOCH, EPOCH + 7, EPOCH + 8):
            assert buffer.reaches_back_to(Cursor(epoch, seq)) == (epoch == own)


def test_the_position_before_the_first_event_keeps_its_epoch_when_events_are_evicted() -> None:
    buffer = buffer_of(3, size=2, holding=[4])
    buffer.extend([event(5, EPOCH + 7), event(6, EPOCH + 7)])

    assert buffer.reaches_back_to(Cursor(EPOCH, 4))
    assert not buffer.reaches_back_to(Cursor(EPOCH + 7, 4))
    assert buffer.after(Cursor(EPOCH, 4)) == event(5, EPOCH + 7)


def test_after_a_restart_a_buffer_holds_the_position_of_the_restart() -> None:
    buffer = buffer_of(0, holding=[1, 2])
    buffer.restart(Cursor(EPOCH + 1, 9))

    assert buffer.reaches_back_to(Cursor(EPOCH + 1, 9))
    assert not buffer.reaches_back_to(Cursor(EPOCH, 9))
    assert not buffer.reaches_back_to(Cursor(EPOCH, 2))


def test_a_position_of_another_epoch_is_not_buffered_though_its_number_is() -> None:
    buffer = buffer_of(3, holding=[4, 5])

    for seq in (3, 4, 5):
        with pytest.raises(NotBuffered):
            buffer.after(Cursor(EPOCH + 1, seq))


# pages of history from before the buffer


def test_a_page_that_ends_where_the_buffer_begins_extends_it_backwards() -> None:
    buffer = buffer_of(4, holding=[5])
    buffer.prepend(Cursor(EPOCH, 2), [event(3), event(4), event(5)])

    assert read(buffer, 2) == [3, 4, 5]
    assert buffer.offer(event(6))
    assert read(buffer, 2) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param([event(3)], id="it ends before the buffer"),
        pytest.param([event(3), event(4, EPOCH + 1)], id="the history has another epoch there"),
        pytest.param([], id="it is empty"),
    ],
)
def test_a_page_that_does_not_meet_the_buffer_is_not_taken(page: Sequence[Event]) -> None:
    buffer = buffer_of(4, holding=[5])
    buffer.prepend(Cursor(EPOCH, 2), page)

    assert not buffer.reaches_back_to(Cursor(EPOCH, 2))
    assert read(buffer, 4) == [5]


def test_a_page_evicts_no_newer_event() -> None:
    buffer = buffer_of(4, size=3, holding=[5, 6])
    buffer.prepend(Cursor(EPOCH, 2), [event(3), event(4)])

    assert not buffer.reaches_back_to(Cursor(EPOCH, 2))
    assert read(buffer, 4) == [5, 6]


# a buffer compared with a list


@dataclass
class Model:
    """A buffer that is a list of positions; the event of the first one is no longer held."""

    size: int
    positions: list[Cursor]
    stale: bool = False

    @property
    def last(self) -> Cursor:
        return self.positions[-1]

    def offer(self, cursor: Cursor) -> bool:
        if cursor == self.last.next():
            self.take(cursor)
            return True
        if cursor.epoch != self.last.epoch or cursor.seq > self.last.seq:
            self.stale = True
        return False

    def take(self, cursor: Cursor) -> None:
        self.positions = [*self.positions, cursor][-self.size - 1 :]

    def prepend(self, after: Cursor, page: Sequence[Cursor]) -> None:
        if self.positions[0] in page:
            longer = [after, *page[: page.index(self.positions[0])], *self.positions]
            self.positions = longer if len(longer) <= self.size + 1 else self.positions

    def after(self, position: Cursor) -> Cursor | str | None:
        if position == self.last:
            return None
        if position in self.positions:
            return self.positions[self.positions.index(position) + 1]
        is_ahead = position.epoch == self.last.epoch and position.seq > self.last.seq
        return None if is_ahead else "not buffered"


EPOCHS = range(1, 5)
cursors = st.builds(Cursor, st.sampled_from(EPOCHS), st.integers(0, 12))
# An offer, a restart, a page of history that overlaps the buffer and continues in new epochs, or a
# page from before the buffer that may reach it.
steps = st.one_of(
    st.tuples(st.just("offer"), cursors),
    st.tuples(st.just("next"), st.sampled_from(EPOCHS)),
    st.tuples(st.just("restart"), cursors),
    st.tuples(st.just("extend"), st.integers(0, 4), st.lists(st.sampled_from(EPOCHS), max_size=4)),
    st.tuples(st.just("prepend"), st.integers(0, 4), st.integers(0, 6)),
)


def page(model: Model, overlap: int, epochs: Sequence[int]) -> list[Cursor]:
    """Return the history after one of the last positions, and then new events of `epochs`."""
    known = model.positions[1:][max(0, len(model.positions) - 1 - overlap) :]
    return [*known, *(Cursor(e, model.last.seq + n) for n, e in enumerate(sorted(epochs), 1))]


def earlier_page(model: Model, before: int, size: int) -> tuple[Cursor, list[Cursor]]:
    """Return a position before the first one, and the page of the history after it."""
    first = model.positions[0]
    earlier = [Cursor(first.epoch, seq) for seq in range(max(first.seq - before, 0), first.seq)]
    after, *following = [*earlier, *model.positions]
    return after, following[:size]


def act(step: tuple[Any, ...], buffer: ReplayBuffer, model: Model) -> None:
    match step:
        case "offer", cursor:
            assert buffer.offer(at(cursor)) == model.offer(cursor)
        case "next", epoch:
            cursor = Cursor(epoch, model.last.seq + 1)
            assert buffer.offer(at(cursor)) == model.offer(cursor)
        case "restart", cursor:
            buffer.restart(cursor)
            model.positions = [cursor]
        case "extend", overlap, epochs:
            events = page(model, overlap, epochs)
            buffer.extend(at(cursor) for cursor in events)
            for cursor in events:
                if cursor.seq > model.last.seq:
                    model.take(cursor)
        case "prepend", before, size:
            after, events = earlier_page(model, before, size)
            buffer.prepend(after, [at(cursor) for cursor in events])
            model.prepend(after, events)


def at(cursor: Cursor) -> Event:
    return event(cursor.seq, cursor.epoch)


def found(buffer: ReplayBuffer, position: Cursor) -> Cursor | str | None:
    try:
        following = buffer.after(position)
    except NotBuffered:
        return "not buffered"
    return None if following is None else following.cursor


@given(size=st.integers(1, 6), start=cursors, steps=st.lists(steps, max_size=25))
def test_a_buffer_answers_like_a_list_of_its_positions(
    size: int, start: Cursor, steps: list[tuple[Any, ...]]
) -> None:
    buffer, model = ReplayBuffer(start, size=size), Model(size, [start])
    for step in steps:
        act(step, buffer, model)
        assert (buffer.last, buffer.stale) == (model.last, model.stale)
        for epoch in EPOCHS:
            for seq in range(model.last.seq + 3):
                position = Cursor(epoch, seq)
                assert buffer.reaches_back_to(position) == (position in model.positions)
                assert found(buffer, position) == model.after(position)


@st.composite
def live_topics(draw: st.DrawFn) -> tuple[int, list[int]]:
    """The length of a history, and a live path that drops, repeats and reorders its events."""
    length = draw(st.integers(min_value=1, max_value=40))
    return length, draw(st.lists(st.integers(min_value=1, max_value=length), max_size=80))


@given(
    live_topic=live_topics(), size=st.integers(min_value=1, max_value=50), page=st.integers(1, 7)
)
def test_extending_from_the_history_restores_it_in_order_whatever_arrived_live(
    live_topic: tuple[int, list[int]], size: int, page: int
) -> None:
    length, live = live_topic
    history = [event(seq) for seq in range(1, length + 1)]
    buffer, seen = buffer_of(size=size), list[int]()
    position = Cursor(EPOCH, 0)

    def take() -> None:
        nonlocal position
        while (found := _after(buffer, position, history)) is not None:
            position = found.cursor
            seen.append(position.seq)

    for seq in [*live, length]:
        buffer.offer(event(seq))
        while buffer.stale:
            buffer.stale = False
            missed = history[buffer.last.seq : buffer.last.seq + page]
            buffer.extend(missed)
            buffer.stale = buffer.stale or len(missed) == page
        take()

    assert seen == list(range(1, length + 1))
    assert buffer.last.seq == length


@given(live_topic=live_topics(), size=st.integers(min_value=1, max_value=50))
def test_a_buffer_never_has_a_gap_and_never_goes_back(
    live_topic: tuple[int, list[int]], size: int
) -> None:
    _, live = live_topic
    buffer = buffer_of(size=size)
    for seq in live:
        before = buffer.last.seq
        assert buffer.offer(event(seq)) == (seq == before + 1)
        assert buffer.last.seq == max(before, seq if seq == before + 1 else 0)
        oldest = max(0, buffer.last.seq - size)
        assert read(buffer, oldest) == list(range(oldest + 1, buffer.last.seq + 1))


def _after(buffer: ReplayBuffer, position: Cursor, history: list[Event]) -> Event | None:
    try:
        return buffer.after(position)
    except NotBuffered:
        return history[position.seq]


@pytest.mark.parametrize("position", [2, 3, 6, 7])
def test_all_events_after_a_position_are_returned_at_once(position: int) -> None:
    buffer = buffer_of(1, holding=range(2, 8))

    following = buffer.all_after(Cursor(EPOCH, position))
    assert [found.cursor.seq for found in following] == list(range(position + 1, 8))


def test_a_position_after_the_buffer_has_no_events_and_one_before_it_is_not_buffered() -> None:
    buffer = buffer_of(1, holding=range(2, 8))

    assert buffer.all_after(Cursor(EPOCH, 9)) == []
    for old in (Cursor(EPOCH, 1), Cursor(EPOCH - 1, 7)):
        with pytest.raises(NotBuffered):
            buffer.all_after(old)
