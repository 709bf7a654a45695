"""`gqlnotify publish` publishes values, and prints their cursors."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import assert_fails, lines_of, on, run, run_process, tailing

pytestmark = pytest.mark.processes


def test_publish_prints_only_the_cursor(redis_url: str, topic: str) -> None:
    done = run_process("publish", topic, '{"price": 7}', settings=on(redis_url))

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[0-9]+-1\n", done.stdout)


def test_publish_takes_each_line_of_the_input_in_order(redis_url: str, topic: str) -> None:
    given = "\n".join(str(n) for n in range(600))
    done = run_process("publish", topic, "-", settings=on(redis_url), given=given)

    assert (done.returncode, done.stderr) == (0, "")
    cursors = done.stdout.split()
    epoch = cursors[0].split("-")[0]
    assert cursors == [f"{epoch}-{n}" for n in range(1, 601)]
    with tailing(redis_url, topic, "--after", f"{epoch}-0") as tail:
        assert [line["payload"] for line in lines_of(tail, 599)] == list(range(600))


def test_publishing_again_with_the_same_id_has_no_effect(redis_url: str, topic: str) -> None:
    first, again = (
        run("publish", topic, value, "--id", "once", settings=on(redis_url)) for value in "12"
    )

    assert first.returncode == again.returncode == 0
    assert first.stdout == again.stdout


@pytest.mark.parametrize(
    ("arguments", "given", "complaint"),
    [
        (["prices", "{price: 7}"], "", "'{price: 7}' is not JSON"),
        (["prices", "NaN"], "", "would not arrive as it is"),
        (["prices", "-"], "1\n{\n", "'{' is not JSON"),
        (["prices..gold", "1"], "", "A topic name consists of"),
        (["prices.<metal>", "1"], "", "A topic name consists of"),
        (["prices", "1", "--id", ""], "", "An event id has 1 to"),
        (["prices", "1", "--id", "x" * 401], "", "An event id has 1 to"),
        (["prices", "-", "--id", "x"], "1\n2\n", "can't be shared by all lines"),
        (["prices", "-"], f'"{"x" * 131072}"', "at most 131072 bytes"),
        (["prices"], "", "Missing argument"),
    ],
)
def test_publish_explains_what_is_wrong_with_its_arguments(
    redis_url: str, arguments: list[str], given: str, complaint: str
) -> None:
    done = run("publish", *arguments, settings=on(redis_url), given=given)

    assert_fails(done, 2, complaint)


TOPICS = """
from dataclasses import dataclass
from gqlnotify import Topic

@dataclass
class Price:
    metal: str
    value: float

GOLD = Topic("app.gold", Price)
OTHERS = Topic("app.<metal>", int)
app = object()
"""


@pytest.mark.parametrize(
    ("name", "value", "payload"),
    [
        ("app.gold", '{"metal": "gold", "value": 7}', {"metal": "gold", "value": 7.0}),
        ("app.silver", "8", 8),
    ],
)
def test_publish_checks_the_value_against_the_topic_of_an_application(
    redis_url: str, tmp_path: Path, name: str, value: str, payload: Any
) -> None:
    (tmp_path / "prices_app.py").write_text(TOPICS)
    done = run_process(
        *("publish", name, value, "--app", "prices_app:app"), settings=on(redis_url), cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    epoch, seq = done.stdout.strip().split("-")
    with tailing(redis_url, name, "--after", f"{epoch}-{int(seq) - 1}") as tail:
        [line] = lines_of(tail, payload)
    assert line["payload"] == payload


def test_publish_checks_a_topic_of_the_task_service(redis_url: str) -> None:
    done = run_process(
        "publish", "tasks", '{"kind": "X"}', "--app", "schema.app:app", settings=on(redis_url)
    )
    assert_fails(
        done, 2, "is not an event of 'tasks': it is not TaskEvent: kind enum, task missing"
    )


@pytest.mark.parametrize(
    ("name", "value", "application", "complaint"),
    [
        ("app.gold", "7", "prices_app:app", "is not an event of 'app.gold'"),
        ("app.gold", '{"metal": "gold"}', "prices_app:app", "value missing"),
        ("app.silver", '"x"', "prices_app:app", "is not an event of 'app.silver'"),
        ("elsewhere", "7", "prices_app:app", "app.<metal>, app.gold"),
        ("app.gold", "7", "broken_app:app", "broken_app can't be imported: KeyError"),
    ],
)
def test_publish_refuses_a_value_that_the_topic_of_an_application_can_not_read(
    redis_url: str, tmp_path: Path, name: str, value: str, application: str, complaint: str
) -> None:
    (tmp_path / "prices_app.py").write_text(TOPICS)
    (tmp_path / "broken_app.py").write_text("{}['nothing']")
    arguments = ("publish", name, value, "--app", application)
    assert_fails(run_process(*arguments, settings=on(redis_url), cwd=tmp_path), 2, complaint)


@pytest.mark.parametrize(
    ("application", "complaint"),
    [("prices_app", "module:attribute"), ("no_such_app:app", "There is no module")],
)
def test_publish_refuses_what_is_not_the_name_of_an_application(
    redis_url: str, application: str, complaint: str
) -> None:
    done = run("publish", "app.gold", "7", "--app", application, settings=on(redis_url))

    assert_fails(done, 2, complaint)
