"""The figures of several processes together."""

from typing import Any

from gqlnotify.console.figures import by_process, growth, lag, refusals, total
from gqlnotify.topics.survey import Answer, Process


def answer(pid: int, id_: str = "a", **figures: Any) -> Answer:
    process = Process(id=id_, host="h", pid=pid, started_at=0, version="1")
    return Answer(process, {"deliveries": 0, "lagSeconds": 0, "lagCount": 0, **figures})


def test_two_managers_of_one_process_count_once() -> None:
    figures = by_process([answer(1, deliveries=5), answer(1, "b", deliveries=5), answer(2)])

    assert total(figures, "deliveries") == 5


def test_only_processes_that_answered_twice_have_a_growth() -> None:
    before = by_process([answer(1, deliveries=5), answer(2, deliveries=100)])
    now = by_process([answer(1, deliveries=8), answer(3, deliveries=1000)])

    assert growth(before, now, "deliveries") == 3


def test_a_process_that_started_again_has_no_negative_growth() -> None:
    before, now = by_process([answer(1, deliveries=5)]), by_process([answer(1, deliveries=1)])

    assert growth(before, now, "deliveries") == 0


def test_the_lag_is_the_mean_of_what_was_written_in_the_meantime() -> None:
    before = by_process([answer(1, lagSeconds=10, lagCount=10)])
    now = by_process([answer(1, lagSeconds=11, lagCount=14)])

    assert lag(before, now) == 0.25
    assert lag(now, now) is None


def test_refusals_are_added_up_most_frequent_first() -> None:
    figures = by_process(
        [answer(1, refusals={"forbidden": 1, "too_slow": 1}), answer(2, refusals={"too_slow": 4})]
    )

    assert refusals(figures) == [("too_slow", 5), ("forbidden", 1)]
