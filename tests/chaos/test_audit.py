"""The audit finds lost, repeated and reordered events."""

import pytest

from tests.chaos.audit import Arrival, Counts, Published, audit

PUBLISHED = [Published(number, phase=0) for number in range(5)]


def of(*numbers: int) -> list[Arrival]:
    return [Arrival(0, number, f"1-{number + 1}") for number in numbers]


def test_a_whole_stream_is_whole() -> None:
    assert audit(PUBLISHED, of(0, 1, 2, 3, 4)) == {0: Counts(delivered=5)}


@pytest.mark.parametrize(
    ("numbers", "amiss"),
    [
        ((0, 1, 3, 4), {"lost": 1}),
        ((0, 1, 2, 3), {"lost": 1}),
        ((0, 1, 1, 2, 3, 4), {"repeated": 1}),
        ((0, 2, 1, 3, 4), {"reordered": 1}),
        ((0, 1, 2, 3, 4, 9), {"invented": 1}),
        ((), {"lost": 5}),
    ],
)
def test_each_kind_of_mistake_is_counted(numbers: tuple[int, ...], amiss: dict[str, int]) -> None:
    counts = audit(PUBLISHED, of(*numbers))[0]

    assert not counts.whole
    for name in ("lost", "repeated", "reordered", "invented"):
        assert getattr(counts, name) == amiss.get(name, 0), name


def test_events_in_an_announced_gap_are_not_lost() -> None:
    gap = Arrival(0, None, None)
    counts = audit(PUBLISHED, [*of(0, 1), gap, *of(4)])[0]

    assert (counts.whole, counts.gaps, counts.delivered) == (True, 1, 3)


def test_what_was_published_before_a_client_began_is_not_lost() -> None:
    counts = audit(PUBLISHED, [Arrival(0, None, begins=True), *of(2, 3, 4)])[0]

    assert (counts.whole, counts.gaps, counts.delivered) == (True, 0, 3)
