import pytest

from gqlnotify import Action, Principal
from schema.rights import may_use

EVERYTHING = ("*",)


@pytest.mark.parametrize(
    ("action", "topic", "expected"),
    [
        ("subscribe", "inbox.alice@example+2Ecom", True),
        ("subscribe", "inbox.bob", False),
        ("subscribe", "inbox.alice", False),
        ("subscribe", "inbox", True),
        ("subscribe", "rooms.garden", True),
        ("publish", "inbox.bob", True),
    ],
)
def test_even_who_may_do_everything_reads_their_own_inbox_only(
    action: Action, topic: str, expected: bool
) -> None:
    alice = Principal("alice@example.com", subscribe=EVERYTHING, publish=EVERYTHING)
    assert may_use(alice, action, topic) is expected


@pytest.mark.parametrize(
    ("action", "topic", "expected"),
    [
        ("subscribe", "inbox.alice", True),
        ("publish", "inbox.alice", False),
        ("subscribe", "rooms.garden", False),
        ("publish", "rooms.garden", False),
    ],
)
def test_who_may_do_nothing_reads_their_own_inbox(
    action: Action, topic: str, expected: bool
) -> None:
    assert may_use(Principal("alice"), action, topic) is expected
