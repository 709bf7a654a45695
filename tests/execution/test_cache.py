"""A cache keeps the items that were used last, up to a weight."""

from hypothesis import given
from hypothesis import strategies as st

from gqlnotify.execution.cache import Cache


def test_the_least_recently_used_is_forgotten_first() -> None:
    cache = Cache[str, int](3)
    for number, key in enumerate("abc"):
        cache.put(key, number, 1)
    assert cache.get("a") == 0
    cache.put("d", 3, 1)
    assert [cache.get(key) for key in "abcd"] == [0, None, 2, 3]


def test_an_item_that_is_too_heavy_evicts_no_other() -> None:
    cache = Cache[str, int](3)
    cache.put("a", 1, 3)
    cache.put("b", 2, 4)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (1, None, 1)


def test_a_cache_without_room_keeps_nothing() -> None:
    cache = Cache[str, int](0)
    cache.put("a", 1, 1)
    assert cache.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))), st.integers(0, 20))
def test_the_weight_is_never_exceeded(puts: list[tuple[int, int]], room: int) -> None:
    cache = Cache[int, int](room)
    for key, weight in puts:
        cache.put(key, weight, weight)
        kept = [cache.get(each) for each in range(6)]
        assert sum(weight for weight in kept if weight is not None) <= room
        if weight <= room:
            assert cache.get(key) == weight
