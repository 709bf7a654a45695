"""A principal's rights, token id and times."""

from typing import Any

import pytest

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


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1767225600", True, None, [], {}])
def test_a_time_is_a_number(claim: str, value: Any) -> None:
    with pytest.raises(ValueError, match="numbers"):
        principal_from({"sub": "alice", claim: value})


def test_a_principal_knows_its_token_id_and_issue_time() -> None:
    principal = principal_from({"sub": "alice", "jti": "a", "iat": 5})

    assert (principal.token_id, principal.issued_at) == ("a", 5)
    for claims in ({}, {"jti": 5, "iat": "now"}, {"jti": None, "iat": True}):
        nothing = Principal("alice", claims=claims)
        assert (nothing.token_id, nothing.issued_at) == (None, None)


def test_a_right_to_a_pattern_is_one_to_every_topic_that_fits_it() -> None:
    principal = Principal("alice", subscribe=("tasks.*",), publish=("*",))

    assert may(principal, "subscribe", "tasks.1.2")
    assert not may(principal, "subscribe", "tasks")
    assert may(principal, "publish", "anything.at:all")


def test_rights_to_subscribe_and_to_publish_are_separate() -> None:
    principal = Principal("alice", subscribe=("a", "b.*"), publish=("c",))

    assert may(principal, "subscribe", "b.1")
    assert may(principal, "publish", "c")
    assert not may(principal, "publish", "a")
    assert not may(principal, "subscribe", "c")


def test_who_may_subscribe_may_not_see_the_members() -> None:
    topics = {"subscribe": ["*"], "publish": ["*"], "presence": ["rooms.*"]}
    principal = principal_from({"sub": "alice", "topics": topics})

    assert may(principal, "presence", "rooms.1")
    assert not may(principal, "presence", "tasks")
    assert not may(Principal("bob", subscribe=("*",), publish=("*",)), "presence", "tasks")


def test_only_the_right_admin_opens_the_tools_of_operators() -> None:
    others = {"subscribe": ["*"], "publish": ["*"], "presence": ["*"]}
    principal = principal_from({"sub": "alice", "topics": others})
    admin = principal_from({"sub": "bob", "topics": {"admin": ["console"]}})

    assert not may(principal, "admin", "console")
    assert may(admin, "admin", "console")
    assert not may(admin, "admin", "trace")


@pytest.mark.parametrize("subject", ["", "half \ud800", 1, None])
def test_a_subject_that_can_t_be_told_to_others_is_refused(subject: object) -> None:
    with pytest.raises(ValueError, match="sub must be"):
        principal_from({"sub": subject})
