"""`gqlnotify revoke` revokes a token or all tokens of a subject."""

import json
import time
from typing import Any
from uuid import uuid4

import pytest

from tests.cli.support import assert_fails, on, read_until, run, run_process, tailing

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        (["--subject", "alice é"], {"subject": "alice é", "tokenId": None, "until": None}),
        (["--token-id", "a b"], {"subject": None, "tokenId": "a b", "until": None}),
        (
            ["--token-id", "a", "--expires-at", "4000000000"],
            {"subject": None, "tokenId": "a", "until": 4e9},
        ),
    ],
)
def test_revoke_publishes_what_is_revoked_and_since_when(
    redis_url: str, arguments: list[str], published: dict[str, Any]
) -> None:
    with tailing(redis_url, "gqlnotify.revocations") as tail:
        before = time.time()
        done = run("revoke", *arguments, settings=on(redis_url))
        line = json.loads(read_until(tail, "\n"))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == line["cursor"]
    assert before <= line["payload"].pop("at") <= time.time()
    assert line["payload"] == published


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Say what to revoke"),
        (["--subject", ""], "Say what to revoke"),
        (
            ["--subject", "a", "--expires-at", "4000000000"],
            "--expires-at belongs to a single token",
        ),
        (["--token-id", "a", "--expires-at", "5"], "expires_at has passed"),
        (["--subject", "a", "--token-id", "b"], "either --subject or --token-id"),
    ],
)
def test_revoke_needs_exactly_one_subject_or_token(
    redis_url: str, arguments: list[str], complaint: str
) -> None:
    assert_fails(run("revoke", *arguments, settings=on(redis_url)), 2, complaint)


def test_revoke_refuses_to_replace_an_earlier_revocation(redis_url: str) -> None:
    small = {"GQLNOTIFY_HISTORY_PER_TOPIC": '{"gqlnotify.*": {"length": 4}}'}
    small |= {**on(redis_url), "GQLNOTIFY_BROKER_PREFIX": f"small-{uuid4().hex}"}
    for n in range(3):
        assert run("revoke", "--token-id", f"{n}", settings=small).returncode == 0
    done = run_process("revoke", "--token-id", "3", settings=small)
    assert done.returncode == 0
    assert "3 revocations are stored, and there is room for 4" in done.stderr
    done = run("revoke", "--token-id", "one too many", settings=small)
    assert_fails(done, 2, "4 revocations are remembered, and one more would push out the oldest")
