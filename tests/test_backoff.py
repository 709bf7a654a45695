"""Waits between attempts."""

from gqlnotify.backoff import Backoff


def test_waits_double_up_to_the_longest_and_no_two_processes_agree() -> None:
    backoff = Backoff(0.1, 1)

    for nominal in (0.1, 0.2, 0.4, 0.8, 1, 1):
        assert nominal / 2 <= backoff.next() <= nominal
    assert len({backoff.next() for _ in range(10)}) > 1


def test_after_a_success_the_first_wait_is_the_shortest_again() -> None:
    backoff = Backoff(0.1, 1)
    for _ in range(5):
        backoff.next()
    backoff.reset()

    assert backoff.next() <= 0.1
