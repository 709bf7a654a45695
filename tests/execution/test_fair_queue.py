"""The items of one subject delay others by no more than a fair share."""

from collections.abc import Hashable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from gqlnotify.execution.fair_queue import FairQueue


def queue_of(*added: tuple[str, Hashable, float]) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for item in added:
        queue.add(*item)
    return queue


def taken(queue: FairQueue[str]) -> list[str]:
    return list(iter(queue.take, None))


def hundred(cost: float, subjects: Iterable[Hashable]) -> list[tuple[str, Hashable, float]]:
    return [(f"hostile {number}", subject, cost) for number, subject in enumerate(subjects)]


def test_the_items_of_one_subject_are_served_in_order() -> None:
    assert taken(queue_of(("a", "x", 9), ("b", "x", 1), ("c", "x", 5))) == ["a", "b", "c"]


def test_two_subjects_alternate() -> None:
    queue = queue_of(("a1", "a", 5), ("a2", "a", 5), ("a3", "a", 5), ("b1", "b", 5), ("b2", "b", 5))
    assert taken(queue) == ["a1", "b1", "a2", "b2", "a3"]


def test_an_honest_item_waits_for_no_more_than_one_of_a_hundred() -> None:
    queue = queue_of(*hundred(10, ["mallory"] * 100), ("honest", "alice", 10))
    assert taken(queue).index("honest") <= 1


def test_a_subject_that_was_served_comes_after_the_others() -> None:
    queue = queue_of(*hundred(10, ["mallory"] * 100))
    for _ in range(50):
        queue.take()
    queue.add("honest", "alice", 10)
    assert taken(queue).index("honest") <= 1


def test_a_small_item_overtakes_large_ones_of_a_hundred_subjects() -> None:
    queue = queue_of(*hundred(10_000, range(100)))
    queue.take()
    queue.add("honest", "alice", 200)
    assert queue.take() == "honest"


def test_small_items_of_new_subjects_do_not_starve_a_large_one() -> None:
    queue = queue_of(("large", "alice", 1000))
    for number in range(201):
        queue.add(f"small {number}", number, 10)
        if queue.take() == "large":
            return
    raise AssertionError("the large item was never taken")


def test_a_discarded_item_is_not_taken() -> None:
    queue = queue_of(("a", "x", 1), ("b", "x", 1))
    queue.discard("a")
    queue.discard("unknown")
    assert taken(queue) == ["b"]


def test_subjects_that_no_longer_wait_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.add(f"item {number}", number, 10)
        queue.take()
    assert queue.take() is None
    assert not queue._busy_until


def test_items_that_no_longer_wait_are_forgotten() -> None:
    queue = queue_of(("large", "alice", 1e9))
    for number in range(10_000):
        queue.add(f"item {number}", "mallory", 10)
        queue.discard(f"item {number}")
    assert len(queue._order) < 5000


class Item:
    """Counts the comparisons by a queue."""

    hashed = 0

    def __hash__(self) -> int:
        Item.hashed += 1
        return id(self)


def test_to_take_one_of_many_is_to_look_at_few() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(5000):
        queue.add(Item(), number, 10)
    Item.hashed = 0
    queue.take()
    assert Item.hashed < 10


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000)), max_size=30))
def test_each_item_is_taken_once_and_in_the_order_of_its_subject(
    added: list[tuple[int, int]],
) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for number, (subject, cost) in enumerate(added):
        queue.add((subject, number), subject, cost)
    order = list(iter(queue.take, None))
    assert sorted(order) == sorted((subject, number) for number, (subject, _) in enumerate(added))
    for subject in range(4):
        own = [number for owner, number in order if owner == subject]
        assert own == sorted(own)
