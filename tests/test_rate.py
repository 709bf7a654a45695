"""Rate limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify.rate import Rate


def allowed(rate: Rate, times: list[float]) -> int:
    return sum(rate.allows(time) for time in times)


def test_a_burst_is_allowed_but_not_one_message_more() -> None:
    assert allowed(Rate(10, burst=5), [1000.0] * 20) == 5


def test_after_a_burst_messages_are_allowed_at_the_rate() -> None:
    rate = Rate(10, burst=5)
    allowed(rate, [0.0] * 20)
    assert [rate.allows(0.05), rate.allows(0.1001), rate.allows(0.15), rate.allows(0.2002)] == [
        False,
        True,
        False,
        True,
    ]


def test_after_a_long_silence_no_more_than_a_burst_is_allowed() -> None:
    rate = Rate(10, burst=5)
    allowed(rate, [0.0] * 20)
    assert allowed(rate, [3600.0] * 20) == 5


def test_the_steady_rate_is_never_refused() -> None:
    assert allowed(Rate(10, burst=2), [i / 10 for i in range(1000)]) == 1000


def test_refused_messages_do_not_count() -> None:
    rate = Rate(1, burst=1)
    assert rate.allows(0)
    assert allowed(rate, [0.5] * 1000) == 0
    assert rate.allows(1.0)


@given(
    st.floats(min_value=0.1, max_value=1000),
    st.integers(min_value=1, max_value=50),
    st.lists(st.floats(min_value=0, max_value=60), max_size=200),
)
def test_no_stretch_of_time_brings_more_than_the_burst_and_the_rate(
    per_second: float, burst: int, times: list[float]
) -> None:
    rate = Rate(per_second, burst)
    came = [time for time in sorted(times) if rate.allows(time)]
    for first in range(len(came)):
        for last in range(first, len(came)):
            stretch = came[last] - came[first]
            assert last - first + 1 <= burst + stretch * per_second + 1e-5


@pytest.mark.parametrize("burst", [1, 2])
def test_a_slow_client_is_never_refused(burst: int) -> None:
    assert allowed(Rate(0.5, burst), [2.0 * i for i in range(100)]) == 100
