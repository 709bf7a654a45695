"""What a pong acknowledges."""

from typing import Any

import pytest

from gqlnotify.event import Cursor
from gqlnotify.protocol.pings import Pings

FIRST, SECOND = Cursor(1, 1), Cursor(1, 2)


def test_a_pong_that_echoes_a_ping_acknowledges_its_cursors() -> None:
    pings = Pings()

    assert pings.pong(pings.ping({"a": FIRST})) == {"a": FIRST}
    assert pings.are_answered


def test_a_pong_acknowledges_the_earlier_pings_too() -> None:
    pings = Pings()
    pings.ping({"a": FIRST, "b": FIRST})
    last = pings.ping({"a": SECOND})

    assert pings.pong(last) == {"a": SECOND, "b": FIRST}


def test_a_pong_acknowledges_once() -> None:
    pings = Pings()
    ping = pings.ping({"a": FIRST})
    pings.pong(ping)

    assert pings.pong(ping) == {}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"gqlnotify": None},
        {"gqlnotify": [1]},
        {"gqlnotify": {}},
        *({"gqlnotify": {"ack": number}} for number in (0, -1, 2, True, 1.0, "1", None, 10**30)),
    ],
)
def test_a_pong_with_another_payload_acknowledges_nothing(payload: Any) -> None:
    pings = Pings()
    pings.ping({"a": FIRST})

    assert pings.pong(payload) == {}
    assert not pings.are_answered


def test_the_cursors_of_a_pong_are_those_of_its_ping() -> None:
    pings = Pings()
    pings.ping({"a": FIRST})

    forged = {"gqlnotify": {"ack": 1, "cursors": {"a": SECOND, "b": SECOND}}}
    assert pings.pong(forged) == {"a": FIRST}


def test_pongs_without_a_payload_answer_one_ping_each_in_order() -> None:
    pings = Pings()
    pings.ping({"a": FIRST})
    pings.ping({"a": SECOND})

    assert pings.pong(None) == {"a": FIRST}
    assert pings.pong(None) == {"a": SECOND}


def test_a_client_that_echoes_acknowledges_nothing_with_a_pong_of_its_own() -> None:
    pings = Pings()
    pings.pong(pings.ping({"a": FIRST}))
    pings.ping({"a": SECOND})

    assert pings.pong(None) == {}


def test_a_client_that_sends_pongs_without_a_ping_acknowledges_nothing_with_them() -> None:
    pings = Pings()
    assert pings.pong(None) == {}
    pings.ping({"a": FIRST})

    assert pings.pong(None) == {}


def test_a_pong_that_answers_a_plain_ping_is_not_unasked() -> None:
    pings = Pings()
    pings.plain_ping()
    assert pings.pong(None) == {}
    pings.ping({"a": FIRST})

    assert pings.pong(None) == {"a": FIRST}


def test_an_operation_that_has_ended_is_not_acknowledged() -> None:
    pings = Pings()
    ping = pings.ping({"a": FIRST, "b": FIRST})
    pings.forget("a")

    assert pings.pong(ping) == {"b": FIRST}


def test_a_client_that_never_answers_makes_the_server_remember_a_limited_number_of_pings() -> None:
    pings = Pings()
    payloads = [pings.ping({str(n): Cursor(1, n)}) for n in range(1001)]

    assert pings.pong(None) == {}, "this pong may answer the ping that was forgotten"
    assert pings.pong(payloads[0]) == {}
    assert len(pings.pong(payloads[-1])) == 1000
