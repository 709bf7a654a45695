"""`gqlnotify token` prints a token with the given rights."""

import re
import time

import pytest

from gqlnotify.auth import TokenVerifier
from tests.cli.support import SECRET, assert_fails, run, run_process

pytestmark = pytest.mark.processes


def test_token_prints_only_a_token_with_the_given_rights() -> None:
    done = run_process(
        *("token", "--subject", "alice", "--subscribe", "tasks", "--subscribe", "tasks.*"),
        *("--publish", "tasks", "--presence", "rooms.*", "--admin", "--expires-in", "60"),
        settings={"GQLNOTIFY_JWT_SECRET": SECRET},
    )

    assert done.returncode == 0
    assert done.stderr == ""
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout)
    principal = TokenVerifier(SECRET).verify(done.stdout.strip())
    assert principal.subject == "alice"
    assert principal.subscribe == ("tasks", "tasks.*")
    assert principal.publish == ("tasks",)
    assert principal.presence == ("rooms.*",)
    assert principal.admin == ("*",)
    assert principal.expires_at is not None
    assert 0 < principal.expires_at.timestamp() - time.time() <= 60


def test_token_contains_the_audience_and_issuer_of_the_settings() -> None:
    done = run(
        *("token", "--subject", "alice"),
        settings={
            "GQLNOTIFY_JWT_SECRET": SECRET,
            "GQLNOTIFY_JWT_AUDIENCE": "tasks-api",
            "GQLNOTIFY_JWT_ISSUER": "us",
        },
    )

    verifier = TokenVerifier(SECRET, audience="tasks-api", issuer="us")
    assert verifier.verify(done.stdout.strip()).subject == "alice"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "GQLNOTIFY_JWT_SECRET is not set"),
        ({"GQLNOTIFY_JWT_SECRET": " "}, "empty"),
        ({"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_HISTORY_PER_TOPIC": "{"}, "history_per_topic"),
        ({"GQLNOTIFY_JWT_SECRET": "x", "GQLNOTIFY_JWT_ALGORITHM": "RS256"}, "private key"),
        ({"GQLNOTIFY_JWT_SECRET": "x", "GQLNOTIFY_JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
    ],
)
def test_token_explains_what_is_wrong_with_the_key(
    settings: dict[str, str], complaint: str
) -> None:
    done = run("token", "--subject", "alice", settings=settings)

    assert done.returncode == 2
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_without_rights_is_printed_with_a_warning() -> None:
    for rights in ([], ["--subscribe", ""]):
        done = run(*("token", "--subject", "a", *rights), settings={"GQLNOTIFY_JWT_SECRET": SECRET})

        assert done.returncode == 0
        assert TokenVerifier(SECRET).verify(done.stdout.strip()).subject == "a"
        assert "this token opens no topic" in done.stderr


@pytest.mark.parametrize("subject", ["", " "])
def test_an_empty_subject_is_refused(subject: str) -> None:
    done = run("token", "--subject", subject, settings={"GQLNOTIFY_JWT_SECRET": SECRET})

    assert (done.returncode, done.stdout) == (2, "")
    assert "The subject is empty" in done.stderr


def test_each_token_has_an_id_of_its_own() -> None:
    verifier = TokenVerifier(SECRET)
    made = [
        run("token", "--subject", "alice", settings={"GQLNOTIFY_JWT_SECRET": SECRET}).stdout
        for _ in range(2)
    ]
    one, other = (verifier.verify(text.strip()) for text in made)

    assert one.token_id
    assert one.token_id != other.token_id
    assert one.issued_at is not None
    assert abs(one.issued_at - time.time()) < 60


def test_token_refuses_a_lifetime_that_every_server_would_refuse() -> None:
    settings = {"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_JWT_MAX_LIFETIME": "600"}
    arguments = ["token", "--subject", "alice", "--expires-in"]

    assert run(*arguments, "600", settings=settings).returncode == 0
    assert_fails(run(*arguments, "601", settings=settings), 2, "GQLNOTIFY_JWT_MAX_LIFETIME")


def test_token_ignores_the_settings_of_an_application() -> None:
    settings = {
        "GQLNOTIFY_JWT_SECRET": SECRET,
        "GQLNOTIFY_DATABASE_URL": "postgresql://elsewhere/tasks",
        "GQLNOTIFY_OUTBOX_MAX_LAG": "5",
    }
    done = run_process("token", "--subject", "alice", "--subscribe", "a", settings=settings)

    assert (done.returncode, done.stderr) == (0, "")
    assert TokenVerifier(SECRET).verify(done.stdout.strip()).subject == "alice"
