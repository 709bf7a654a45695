"""What all commands of `gqlnotify` have in common."""

from importlib.metadata import version

import pytest

from tests.cli.support import assert_fails, on, run, run_process
from tests.redis_servers import redis_server

pytestmark = pytest.mark.processes


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")

    assert (done.returncode, done.stdout) == (0, f"gqlnotify {version('gqlnotify')}\n")


def test_a_shell_can_complete_commands() -> None:
    done = run_process(
        settings={
            "_GQLNOTIFY_COMPLETE": "complete_bash",
            "COMP_WORDS": "gqlnotify t",
            "COMP_CWORD": "1",
        }
    )

    assert done.stdout.split() == ["token", "tail", "trace"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "--subject", "a"],
        ["publish", "t", "1"],
        ["tail", "t"],
        ["trace", "--topic", "t"],
        ["revoke", "--subject", "a"],
    ],
)
def test_every_command_names_a_misspelt_setting(arguments: list[str]) -> None:
    done = run(*arguments, settings={"GQLNOTIFY_BROKER_ULR": "redis://127.0.0.1:1"})

    assert done.returncode == 2
    assert "did you mean GQLNOTIFY_BROKER_URL?" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["publish", "prices", "1"],
        ["tail", "prices"],
        ["trace", "--topic", "prices"],
        ["revoke", "--subject", "alice"],
    ],
)
@pytest.mark.parametrize(
    ("url", "status", "complaint"),
    [
        ("", 2, "set GQLNOTIFY_BROKER_URL"),
        ("memory://", 2, "set GQLNOTIFY_BROKER_URL"),
        ("carrier-pigeon://:hunter2@loft", 2, "redis+sentinel://"),
        ("redis+sentinel://:hunter2@127.0.0.1:1", 2, "needs the service's name"),
        ("redis://:hunter2@127.0.0.1:1", 1, "can't be reached"),
        ("redis+cluster://:hunter2@127.0.0.1:1", 1, "can't be reached"),
        ("redis+sentinel://:hunter2@127.0.0.1:1/master", 1, "can't be reached"),
    ],
)
def test_commands_explain_what_is_wrong_with_the_broker_without_its_password(
    command: list[str], url: str, status: int, complaint: str
) -> None:
    assert_fails(run(*command, settings=on(url)), status, complaint)


@pytest.mark.parametrize("command", [["publish", "prices", "1"], ["tail", "prices"]])
def test_publish_and_tail_do_not_print_a_password_that_redis_refuses(command: list[str]) -> None:
    with redis_server(password="right") as server:
        url = server.url.replace(":right@", ":hunter2@")
        assert_fails(run(*command, settings=on(url)), 1, "can't be reached or refuses the command")
