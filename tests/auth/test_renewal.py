"""Which tokens can replace the token of an open socket."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from gqlnotify.auth import Principal, Viewer, renewed
from gqlnotify.errors import Forbidden

OLD = Viewer(
    Principal(
        "alice",
        datetime(2026, 1, 1, tzinfo=UTC),
        subscribe=("tasks", "prices.*"),
        publish=("tasks",),
        presence=("tasks",),
        admin=("console",),
        claims={"sub": "alice", "exp": 1, "iat": 0, "jti": "one", "role": "clerk"},
    )
)


def viewer(claims: dict[str, Any] | None = None, **changes: Any) -> Viewer:
    principal = replace(OLD.principal, claims={**OLD.principal.claims, **(claims or {})}, **changes)
    return Viewer(principal)


@pytest.mark.parametrize(
    "fresh",
    [
        viewer({"exp": 2, "iat": 1, "nbf": 1, "jti": "two", "auth_time": 0}),
        viewer(expires_at=None),
        viewer({"topics": {}}, subscribe=("prices.*", "tasks", "audit"), publish=("tasks", "x")),
    ],
)
def test_a_token_of_the_same_subject_with_no_fewer_rights_replaces_the_old_one(
    fresh: Viewer,
) -> None:
    assert renewed(OLD, fresh) is fresh


@pytest.mark.parametrize(
    ("fresh", "why"),
    [
        (viewer(subject="bob"), "another subject"),
        (viewer(subject="Alice"), "another subject"),
        (viewer(subscribe=("tasks",)), "fewer rights"),
        (viewer(publish=()), "fewer rights"),
        (viewer(presence=("prices",)), "fewer rights"),
        (viewer(admin=()), "fewer rights"),
        (viewer({"role": "guest"}), "other claims"),
        (viewer({"tenant": "acme"}), "other claims"),
    ],
)
def test_another_subject_fewer_rights_or_other_claims_need_a_new_connection(
    fresh: Viewer, why: str
) -> None:
    with pytest.raises(Forbidden, match=why):
        renewed(OLD, fresh)
