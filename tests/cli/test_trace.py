"""What `gqlnotify trace` takes and prints. tests/e2e/test_trace.py has what it finds."""

from typing import Any

import pytest

from gqlnotify.cli.trace_lines import TextLines
from gqlnotify.observability.trace_verdict import Cause, Verdict
from tests.cli.support import assert_fails, on, run

LINES = TextLines(1000.0, 700.0, is_coloured=False)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "pass --subject, --topic or both"),
        (["--subject", ""], "pass --subject, --topic or both"),
        (["--subject", "alice", "--cursor", "1-2"], "Pass that topic with --topic"),
        (["--topic", "a..b"], "A topic name consists of"),
        (["--topic", "gqlnotify.revocations"], "are internal"),
        (["--topic", "a", "--cursor", "yesterday"], "A cursor looks like"),
        (["--topic", "a", "--since", "yesterday"], "is not a duration"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], complaint: str) -> None:
    assert_fails(run("trace", *arguments, settings=on("redis://127.0.0.1:1")), 2, complaint)


@pytest.mark.parametrize(
    ("fact", "line"),
    [
        (
            {"at": 995.04, "kind": "subscribed", "subject": "alice", "topic": "tasks"},
            "      5.0 s ago  web:1  subscribed    alice tasks",
        ),
        (
            {"at": 999, "kind": "filtered", "subject": "alice", "text": "f (app.py:7)"},
            "      1.0 s ago  web:1  filtered      alice by f (app.py:7)",
        ),
        (
            {"at": 800, "kind": "gap", "topic": "tasks", "cursor": "1-2", "until": "1-9"},
            " 3 min 20 s ago  web:1  gap           tasks after 1-2 up to 1-9",
        ),
        (
            {"at": 1000, "kind": "closed", "subject": "a\x1b[2J", "text": "1006"},
            "      0.0 s ago  web:1  closed        a\\x1b[2J 1006",
        ),
    ],
)
def test_a_fact_is_one_aligned_line(fact: dict[str, Any], line: str) -> None:
    assert LINES.fact("web:1", fact) == line


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (
            Verdict(Cause.FILTERED, "the filter drops it"),
            "alice did not get tasks 1-2 because the filter drops it. [filtered]",
        ),
        (
            Verdict(Cause.DELIVERED, "alice has acknowledged it"),
            "alice did get tasks 1-2: alice has acknowledged it. [delivered]",
        ),
        (
            Verdict(Cause.SENT, "the client has not acknowledged it"),
            "tasks 1-2 was sent to alice: the client has not acknowledged it. [sent]",
        ),
    ],
)
def test_the_verdict_is_a_sentence(verdict: Verdict, line: str) -> None:
    fields = {"subject": "alice", "topic": "tasks", "cursor": "1-2"}

    assert LINES.verdict(verdict, fields) == line


def test_a_process_says_if_it_does_not_remember_all_of_the_time() -> None:
    assert LINES.process("web:1", {"recordedSince": 600.0}, None) is None
    short = LINES.process("web:1", {"recordedSince": 990.0}, None)
    assert short == "web:1 remembers nothing from before 10.0 s ago"
    assert LINES.process("web:1", None, "no answer") == "web:1: no answer"
