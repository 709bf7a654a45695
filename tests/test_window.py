from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify.event import Cursor, Event
from gqlnotify.window import Behind, Window

EPOCH = 1_000


def event(seq: int, epoch: int = EPOCH) -> Event:
    return Event("t", Cursor(epoch, seq), b"%d" % seq)


def window(last: int = 0, *, size: int = 5, holding: Iterable[int] = ()) -> Window:
    window = Window(Cursor(EPOCH, last), size=size)
    window.extend(event(seq) for seq in holding)
    return window


def read(window: Window, after: int) -> list[int]:
    position, seen = Cursor(EPOCH, after), list[int]()
    while (found := window.after(position)) is not None:
        position = found.cursor
        seen.append(position.seq)
    return seen


def test_the_next_event_is_taken() -> None:
    w = window(3)

    assert w.offer(event(4))
    assert (w.last, w.stale) == (Cursor(EPOCH, 4), False)


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_repeat_is_dropped_and_is_no_gap(seq: int) -> None:
    w = window(3)

    assert not w.offer(event(seq))
    assert (w.last, w.stale) == (Cursor(EPOCH, 3), False)


@pytest.mark.parametrize("later", [event(5), event(99), event(4, EPOCH + 1), event(1, EPOCH - 1)])
def test_a_later_event_and_one_of_another_epoch_make_the_window_stale(later: Event) -> None:
    w = window(3)

    assert not w.offer(later)
    assert (w.last, w.stale) == (Cursor(EPOCH, 3), True)


def test_a_stale_window_stays_stale_until_it_is_caught_up() -> None:
    w = window(3)
    w.offer(event(6))

    w.offer(event(4))
    w.offer(event(4))
    assert w.stale


def test_extending_leaves_out_what_arrived_meanwhile() -> None:
    w = window(3, holding=[4, 5])

    w.extend(event(seq) for seq in (4, 5, 6))
    assert read(w, 3) == [4, 5, 6]


def test_only_the_newest_events_are_held() -> None:
    w = window(0, size=3, holding=range(1, 11))

    assert read(w, 7) == [8, 9, 10]
    with pytest.raises(Behind):
        w.after(Cursor(EPOCH, 6))


def test_at_the_end_there_is_nothing_yet() -> None:
    assert window(3).after(Cursor(EPOCH, 3)) is None
    assert window(3).after(Cursor(EPOCH, 4)) is None


def test_before_the_first_event_it_ever_saw_one_is_behind() -> None:
    with pytest.raises(Behind):
        window(3).after(Cursor(EPOCH, 2))


def test_in_another_epoch_one_is_behind() -> None:
    for epoch in (EPOCH - 1, EPOCH + 1):
        with pytest.raises(Behind):
            window(3).after(Cursor(epoch, 3))


def test_after_a_restart_the_positions_before_it_are_behind() -> None:
    w = window(0, holding=[1, 2])
    w.restart(Cursor(EPOCH, 9))

    with pytest.raises(Behind):
        w.after(Cursor(EPOCH, 2))
    assert w.offer(event(10))
    assert read(w, 9) == [10]


def test_a_restart_leaves_the_window_as_stale_as_it_was() -> None:
    w = window(3)
    w.offer(event(1, EPOCH + 1))
    w.restart(Cursor(EPOCH + 1, 0))

    assert w.stale


@st.composite
def feeds(draw: st.DrawFn) -> tuple[int, list[int]]:
    """The length of a history, and a live feed of it that drops, repeats and reorders."""
    length = draw(st.integers(min_value=1, max_value=40))
    return length, draw(st.lists(st.integers(min_value=1, max_value=length), max_size=80))


@given(feed=feeds(), size=st.integers(min_value=1, max_value=50), page=st.integers(1, 7))
def test_whatever_the_live_feed_does_extending_from_the_truth_gives_the_truth_in_order(
    feed: tuple[int, list[int]], size: int, page: int
) -> None:
    length, live = feed
    truth = [event(seq) for seq in range(1, length + 1)]
    w, seen = window(size=size), list[int]()
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


@given(feed=feeds(), size=st.integers(min_value=1, max_value=50))
def test_a_window_never_has_a_hole_and_never_goes_back(
    feed: tuple[int, list[int]], size: int
) -> None:
    _, live = feed
    w = window(size=size)
    for seq in live:
        before = w.last.seq
        assert w.offer(event(seq)) == (seq == before + 1)
        assert w.last.seq == max(before, seq if seq == before + 1 else 0)
        oldest = max(0, w.last.seq - size)
        assert read(w, oldest) == list(range(oldest + 1, w.last.seq + 1))


def _after(w: Window, position: Cursor, truth: list[Event]) -> Event | None:
    try:
        return w.after(position)
    except Behind:
        return truth[position.seq]
