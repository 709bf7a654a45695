from gqlnotify import Principal
from gqlnotify.auth import (
    may,
    principal_from,
)


def test_claims_that_were_checked_elsewhere_need_no_end() -> None:
    assert principal_from({"sub": "alice"}) == Principal("alice", claims={"sub": "alice"})


def test_a_principal_keeps_its_claims_when_the_originals_change() -> None:
    claims = {"sub": "alice"}
    principal = principal_from(claims)
    claims["sub"] = "bob"

    assert principal.claims == {"sub": "alice"}


def test_a_right_to_a_pattern_is_one_to_every_topic_that_fits_it() -> None:
    principal = Principal("alice", subscribe=("tasks.*",), publish=("*",))

    assert may(principal, "subscribe", "tasks.1.2")
    assert not may(principal, "subscribe", "tasks")
    assert may(principal, "publish", "anything.at:all")


def test_rights_are_kept_apart_and_any_of_them_will_do() -> None:
    principal = Principal("alice", subscribe=("a", "b.*"), publish=("c",))

    assert may(principal, "subscribe", "b.1")
    assert may(principal, "publish", "c")
    assert not may(principal, "publish", "a")
    assert not may(principal, "subscribe", "c")
