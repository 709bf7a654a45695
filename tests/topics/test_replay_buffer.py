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


def buffer(last: int = 0, *, size: int = 5, holding: Iterable[int] = ()) -> ReplayBuffer:
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
    w = buffer(3)

    assert w.offer(event(4))
    assert (w.last, w.stale) == (Cursor(EPOCH, 4), False)


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_repeat_is_dropped_and_is_no_gap(seq: int) -> None:
    w = buffer(3)

    assert not w.offer(event(seq))
    assert (w.last, w.stale) == (Cursor(EPOCH, 3), False)


@pytest.mark.parametrize("later", [event(5), event(99), event(4, EPOCH + 1), event(1, EPOCH - 1)])
def test_a_later_event_and_one_of_another_epoch_make_the_buffer_stale(later: Event) -> None:
    w = buffer(3)

    assert not w.offer(later)
    assert (w.last, w.stale) == (Cursor(EPOCH, 3), True)


def test_a_stale_buffer_stays_stale_until_it_is_extended() -> None:
    w = buffer(3)
    w.offer(event(6))

    w.offer(event(4))
    w.offer(event(4))
    assert w.stale


def test_extending_skips_events_that_arrived_in_the_meantime() -> None:
    w = buffer(3, holding=[4, 5])

    w.extend(event(seq) for seq in (4, 5, 6))
    assert read(w, 3) == [4, 5, 6]


def test_only_the_newest_events_are_held() -> None:
    w = buffer(0, size=3, holding=range(1, 11))

    assert read(w, 7) == [8, 9, 10]
    with pytest.raises(NotBuffered):
        w.after(Cursor(EPOCH, 6))


def test_after_the_newest_event_there_is_none() -> None:
    assert buffer(3).after(Cursor(EPOCH, 3)) is None
    assert buffer(3).after(Cursor(EPOCH, 4)) is None


def test_a_position_before_the_first_event_is_not_buffered() -> None:
    with pytest.raises(NotBuffered):
        buffer(3).after(Cursor(EPOCH, 2))


def test_a_position_of_another_epoch_is_not_buffered() -> None:
    for epoch in (EPOCH - 1, EPOCH + 1):
        with pytest.raises(NotBuffered):
            buffer(3).after(Cursor(epoch, 3))


def test_after_a_restart_earlier_positions_are_not_buffered() -> None:
    w = buffer(0, holding=[1, 2])
    w.restart(Cursor(EPOCH, 9))

    with pytest.raises(NotBuffered):
        w.after(Cursor(EPOCH, 2))
    assert w.offer(event(10))
    assert read(w, 9) == [10]


def test_a_restart_does_not_change_whether_the_buffer_is_stale() -> None:
    w = buffer(3)
    w.offer(event(1, EPOCH + 1))
    w.restart(Cursor(EPOCH + 1, 0))

    assert w.stale


def test_extending_follows_the_history_into_another_epoch() -> None:
    w = buffer(3, holding=[4])
    w.extend([event(5), event(6, EPOCH + 7), event(7, EPOCH + 7), event(8, EPOCH + 9)])

    assert w.last == Cursor(EPOCH + 9, 8)
    assert read(w, 3) == [4, 5, 6, 7, 8]
    assert w.offer(event(9, EPOCH + 9))


def test_the_live_path_does_not_lead_into_another_epoch() -> None:
    w = buffer(3)

    assert not w.offer(event(4, EPOCH + 1))
    assert (w.last, w.stale) == (Cursor(EPOCH, 3), True)


# which positions it holds


def test_a_buffer_holds_the_position_before_its_first_event_and_each_one_after() -> None:
    w = buffer(3, holding=[4, 5])

    reached = [seq for seq in range(9) if w.reaches_back_to(Cursor(EPOCH, seq))]
    assert reached == [3, 4, 5]


def test_of_evicted_positions_only_the_last_one_is_buffered() -> None:
    w = buffer(0, size=3, holding=range(1, 11))

    reached = [seq for seq in range(12) if w.reaches_back_to(Cursor(EPOCH, seq))]
    assert reached == [7, 8, 9, 10]


def test_an_empty_buffer_holds_only_its_own_position() -> None:
    w = buffer(3)

    assert w.reaches_back_to(Cursor(EPOCH, 3))
    for elsewhere in (Cursor(EPOCH, 2), Cursor(EPOCH, 4), Cursor(EPOCH + 1, 3)):
        assert not w.reaches_back_to(elsewhere)


def test_a_buffer_holds_positions_of_several_epochs() -> None:
    w = buffer(3, holding=[4])
    w.extend([event(5, EPOCH + 7), event(6, EPOCH + 7)])

    places = {3: EPOCH, 4: EPOCH, 5: EPOCH + 7, 6: EPOCH + 7}
    for seq, own in places.items():
        for epoch in (EPOCH - 1, EPOCH, EPOCH + 7, EPOCH + 8):
            assert w.reaches_back_to(Cursor(epoch, seq)) == (epoch == own)


def test_the_position_before_the_first_event_keeps_its_epoch_when_events_are_evicted() -> None:
    w = buffer(3, size=2, holding=[4])
    w.extend([event(5, EPOCH + 7), event(6, EPOCH + 7)])

    assert w.reaches_back_to(Cursor(EPOCH, 4))
    assert not w.reaches_back_to(Cursor(EPOCH + 7, 4))
    assert w.after(Cursor(EPOCH, 4)) == event(5, EPOCH + 7)


def test_after_a_restart_a_buffer_holds_the_position_of_the_restart() -> None:
    w = buffer(0, holding=[1, 2])
    w.restart(Cursor(EPOCH + 1, 9))

    assert w.reaches_back_to(Cursor(EPOCH + 1, 9))
    assert not w.reaches_back_to(Cursor(EPOCH, 9))
    assert not w.reaches_back_to(Cursor(EPOCH, 2))


def test_a_position_of_another_epoch_is_not_buffered_though_its_number_is() -> None:
    w = buffer(3, holding=[4, 5])

    for seq in (3, 4, 5):
        with pytest.raises(NotBuffered):
            w.after(Cursor(EPOCH + 1, seq))


# a buffer compared with a list


@dataclass
class Model:
    """A buffer that is a list of positions; the event of the first one is no longer held."""

    size: int
    places: list[Cursor]
    stale: bool = False

    @property
    def last(self) -> Cursor:
        return self.places[-1]

    def offer(self, cursor: Cursor) -> bool:
        if cursor == self.last.next():
            self.take(cursor)
            return True
        if cursor.epoch != self.last.epoch or cursor.seq > self.last.seq:
            self.stale = True
        return False

    def take(self, cursor: Cursor) -> None:
        self.places = [*self.places, cursor][-self.size - 1 :]

    def after(self, position: Cursor) -> Cursor | str | None:
        if position == self.last:
            return None
        if position in self.places:
            return self.places[self.places.index(position) + 1]
        is_ahead = position.epoch == self.last.epoch and position.seq > self.last.seq
        return None if is_ahead else "behind"


EPOCHS = range(1, 5)
cursors = st.builds(Cursor, st.sampled_from(EPOCHS), st.integers(0, 12))
# An offer, a restart, or a page of history that overlaps the buffer and continues in new epochs.
steps = st.one_of(
    st.tuples(st.just("offer"), cursors),
    st.tuples(st.just("next"), st.sampled_from(EPOCHS)),
    st.tuples(st.just("restart"), cursors),
    st.tuples(st.just("extend"), st.integers(0, 4), st.lists(st.sampled_from(EPOCHS), max_size=4)),
)


def page(model: Model, back: int, epochs: Sequence[int]) -> list[Cursor]:
    """Return the history after one of the last positions, and then new events of `epochs`."""
    known = model.places[1:][max(0, len(model.places) - 1 - back) :]
    return [*known, *(Cursor(e, model.last.seq + n) for n, e in enumerate(sorted(epochs), 1))]


def act(step: tuple[Any, ...], w: ReplayBuffer, model: Model) -> None:
    match step:
        case "offer", cursor:
            assert w.offer(at(cursor)) == model.offer(cursor)
        case "next", epoch:
            cursor = Cursor(epoch, model.last.seq + 1)
            assert w.offer(at(cursor)) == model.offer(cursor)
        case "restart", cursor:
            w.restart(cursor)
            model.places = [cursor]
        case "extend", back, epochs:
            events = page(model, back, epochs)
            w.extend(at(cursor) for cursor in events)
            for cursor in events:
                if cursor.seq > model.last.seq:
                    model.take(cursor)


def at(cursor: Cursor) -> Event:
    return event(cursor.seq, cursor.epoch)


def found(w: ReplayBuffer, position: Cursor) -> Cursor | str | None:
    try:
        following = w.after(position)
    except NotBuffered:
        return "behind"
    return None if following is None else following.cursor


@given(size=st.integers(1, 6), start=cursors, steps=st.lists(steps, max_size=25))
def test_a_buffer_answers_like_a_list_of_its_positions(
    size: int, start: Cursor, steps: list[tuple[Any, ...]]
) -> None:
    w, model = ReplayBuffer(start, size=size), Model(size, [start])
    for step in steps:
        act(step, w, model)
        assert (w.last, w.stale) == (model.last, model.stale)
        for epoch in EPOCHS:
            for seq in range(model.last.seq + 3):
                position = Cursor(epoch, seq)
                assert w.reaches_back_to(position) == (position in model.places)
                assert found(w, position) == model.after(position)


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
    truth = [event(seq) for seq in range(1, length + 1)]
    w, seen = buffer(size=size), list[int]()
    position = Cursor(EPOCH, 0)

    def take() -> None:
        nonlocal position
        while (found := _after(w, position, truth)) is not None:
            position = found.cursor
            seen.append(position.seq)

    for seq in [*live, length]:
        w.offer(event(seq))
        while w.stale:
            w.stale = False
            missed = truth[w.last.seq : w.last.seq + page]
            w.extend(missed)
            w.stale = w.stale or len(missed) == page
        take()

    assert seen == list(range(1, length + 1))
    assert w.last.seq == length


@given(live_topic=live_topics(), size=st.integers(min_value=1, max_value=50))
def test_a_buffer_never_has_a_gap_and_never_goes_back(
    live_topic: tuple[int, list[int]], size: int
) -> None:
    _, live = live_topic
    w = buffer(size=size)
    for seq in live:
        before = w.last.seq
        assert w.offer(event(seq)) == (seq == before + 1)
        assert w.last.seq == max(before, seq if seq == before + 1 else 0)
        oldest = max(0, w.last.seq - size)
        assert read(w, oldest) == list(range(oldest + 1, w.last.seq + 1))


def _after(w: ReplayBuffer, position: Cursor, truth: list[Event]) -> Event | None:
    try:
        return w.after(position)
    except NotBuffered:
        return truth[position.seq]


@pytest.mark.parametrize("position", [2, 3, 6, 7])
def test_all_events_after_a_position_are_returned_at_once(position: int) -> None:
    w = buffer(1, holding=range(2, 8))

    behind = w.all_after(Cursor(EPOCH, position))
    assert [found.cursor.seq for found in behind] == list(range(position + 1, 8))


def test_a_position_after_the_buffer_has_no_events_and_one_before_it_is_not_buffered() -> None:
    w = buffer(1, holding=range(2, 8))

    assert w.all_after(Cursor(EPOCH, 9)) == []
    for old in (Cursor(EPOCH, 1), Cursor(EPOCH - 1, 7)):
        with pytest.raises(NotBuffered):
            w.all_after(old)
