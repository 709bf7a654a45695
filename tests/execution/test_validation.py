"""Validation in steps finds what graphql-core's validation finds, and each step is small."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from graphql import (
    BREAK,
    SKIP,
    DocumentNode,
    GraphQLError,
    ValidationRule,
    parse,
    specified_rules,
    validate,
)
from hypothesis import given, note
from hypothesis import strategies as st

from gqlnotify.execution.validation import Validation
from tests.execution.test_merging import SCHEMA, document_of

MANY = "{ " + "n { t } " * 500 + "}"
DOCUMENTS = [
    "{ n { t } }",
    "{ unknown { t } n }",
    "{ " + " ".join(f"unknown{number}" for number in range(30)) + " }",
    '"described" query($a: Int = 1) { s(x: $a) @skip(if: true) } fragment F on P { s }',
    "type A { a: Int } { s }",
    "query A { s } query A { s } { s }",
    "{ ...F0 }" + " ".join(f"fragment F{n} on Query {{ ...F{n + 1} }}" for n in range(300)),
]


def in_steps(document: DocumentNode, rules: Any, visits: int) -> list[GraphQLError]:
    validation = Validation(SCHEMA, document, rules, max_errors=10, hide_suggestions=False)
    while validation.step(visits):
        pass
    return validation.errors


def described(errors: list[GraphQLError]) -> list[Any]:
    return [error.formatted for error in errors]


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("visits", [1, 7, 10_000])
def test_it_finds_the_same_errors_in_the_same_order(document: str, visits: int) -> None:
    ast = parse(document)
    expected = described(validate(SCHEMA, ast, specified_rules, max_errors=10))
    assert described(in_steps(ast, specified_rules, visits)) == expected


@given(st.integers(0, 2**32))
def test_it_finds_the_same_errors_in_any_document(seed: int) -> None:
    document = document_of(Random(seed))
    note(document)
    ast = parse(document)
    expected = described(validate(SCHEMA, ast, specified_rules, max_errors=10))
    assert described(in_steps(ast, specified_rules, 5)) == expected


class Seen(ValidationRule):
    """Notes each visit with all arguments that a rule gets."""

    visits: list[Any] = []  # noqa: RUF012 - for one test at a time
    at: str = ""
    answer: Any = None

    def enter(self, node: Any, key: Any, parent: Any, path: Any, ancestors: Any) -> Any:
        return self._note("enter", node, key, parent, path, ancestors)

    def leave(self, node: Any, key: Any, parent: Any, path: Any, ancestors: Any) -> Any:
        return self._note("leave", node, key, parent, path, ancestors)

    def _note(self, way: str, node: Any, key: Any, parent: Any, path: Any, above: Any) -> Any:
        self.visits.append((way, id(node), key, id(parent), [*path], [id(each) for each in above]))
        return self.answer if f"{way} {node.kind}" == self.at else None


@contextmanager
def seen(at: str, answer: Any) -> Iterator[list[Any]]:
    Seen.visits, Seen.at, Seen.answer = [], at, answer
    yield Seen.visits


@pytest.mark.parametrize("answer", [None, SKIP, False, BREAK, True])
@pytest.mark.parametrize("at", ["enter field", "leave field", "enter directive", "enter document"])
def test_rules_see_the_same_arguments_at_each_visit(at: str, answer: Any) -> None:
    ast = parse("query A($v: Int = 1) { n { x: t @skip(if: true) ...F } s } fragment F on P { s }")
    with seen(at, answer) as expected:
        validate(SCHEMA, ast, [Seen])
    with seen(at, answer) as visits:
        in_steps(ast, [Seen], 1)
    assert visits == expected


def test_a_step_makes_no_more_visits_than_its_limit() -> None:
    with seen("", None) as visits:
        validation = Validation(SCHEMA, parse(MANY), [Seen], max_errors=10, hide_suggestions=False)
        assert not visits
        before, steps = 0, 0
        while validation.step(100):
            assert len(visits) - before == 100
            before, steps = len(visits), steps + 1
    assert steps > 10
