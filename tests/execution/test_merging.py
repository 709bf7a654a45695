"""Fields can be merged exactly if graphql-core says so, and one pass finds out."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import pytest
from graphql import (
    GraphQLError,
    Node,
    OverlappingFieldsCanBeMergedRule,
    build_schema,
    parse,
    print_ast,
    validate,
)
from hypothesis import given, note
from hypothesis import strategies as st

from gqlnotify.errors import QueryTooComplex
from gqlnotify.execution import merging
from gqlnotify.execution.merging import FieldsCanMergeRule

SCHEMA = build_schema(
    """
    interface Node { n: Node, p: P, s(x: Int): Int, t: String }
    type P implements Node { n: Node, p: P, s(x: Int): Int, t: String, own: Int, list: [P] }
    type Q implements Node { n: Node, p: P, s(x: Int): Int, t: String, own: Int!, list: [Q!] }
    type R implements Node { n: Node, p: P, s(x: Int): Int, t: String, own: String, list: P }
    union Any = P | Q | R
    type Query { n: Node, p: P, any: Any, s(x: Int): Int }
    """
)
TYPES = ["Node", "P", "Q", "R", "Query", "Any", "Unknown"]
OBJECTS = ["s(x: {a: 1, b: [$v]})", "s(x: {b: [$v], a: 1})", "s(x: {a: 1, b: [1]})"]
LEAVES = ["s", "s(x: 1)", "s(x: $v)", *OBJECTS, "t", "own", "__typename", "unknown"]
BRANCHES = ["n", "p", "list", "any", "s", "t: n", "n: p", "own: list", "n: list"]
RENAMED = ["s: t", "t: s", "s: own", "own: t", "t: __typename", "n: t"]


class Words(NamedTuple):
    leaves: Sequence[str]
    branches: Sequence[str]


ALL = Words([*LEAVES, *RENAMED], BRANCHES)
# Of these, most documents are valid.
HARMLESS = Words(["s", "t", "__typename", "own"], ["n", "p"])


def selections(random: Random, depth: int, words: Words) -> str:
    return " ".join(selection(random, depth, words) for _ in range(random.randint(1, 4)))


def selection(random: Random, depth: int, words: Words) -> str:
    kind = random.choice(["leaf", "branch", "inline", "spread"]) if depth else "leaf"
    if kind == "leaf":
        return random.choice(words.leaves)
    if kind == "spread":
        return f"...F{random.randrange(3)}"
    below = selections(random, depth - 1, words)
    if kind == "branch":
        return f"{random.choice(words.branches)} {{ {below} }}"
    return f"{random.choice(['...', *(f'... on {name}' for name in TYPES)])} {{ {below} }}"


def document_of(random: Random) -> str:
    """Return a well-formed document, which other rules usually refuse."""
    words = random.choice([HARMLESS, HARMLESS, ALL])
    parts = [f"query A($v: Int) {{ {selections(random, 3, words)} }}"]
    if random.random() < 0.5:
        parts.append(f"query B {{ {selections(random, 2, words)} }}")
    for number in range(3):
        below = selections(random, 2, words)
        parts.append(f"fragment F{number} on {random.choice(TYPES)} {{ {below} }}")
    return " ".join(parts)


def errors_of(rule: type, document: str) -> list[GraphQLError]:
    return validate(SCHEMA, parse(document), [rule])


@given(st.integers(0, 2**32))
def test_it_accepts_exactly_the_documents_that_graphql_core_accepts(seed: int) -> None:
    document = document_of(Random(seed))
    note(document)
    ours, theirs = (
        bool(errors_of(rule, document))
        for rule in (FieldsCanMergeRule, OverlappingFieldsCanBeMergedRule)
    )
    assert ours == theirs


CONFLICTS = [
    "{ n { x: s x: t } }",
    "{ p { s(x: 1) s(x: 2) } }",
    "{ p { s s(x: 1) } }",
    "{ n { ... on P { own } ... on Q { own } } }",
    "{ n { ... on P { list { own } } ... on R { list { own: t } } } }",
    "{ p { n { s } } p { n { s: t } } }",
]


@pytest.mark.parametrize("document", CONFLICTS)
def test_a_conflict_has_the_message_of_graphql_core(document: str) -> None:
    ours, theirs = (
        [(error.message, error.locations) for error in errors_of(rule, document)]
        for rule in (FieldsCanMergeRule, OverlappingFieldsCanBeMergedRule)
    )
    assert ours
    assert ours[0][0] == theirs[0][0]


@pytest.mark.parametrize(
    "document",
    [
        "{ p { s(x: 1) s(x: 1) s(x: 1) } }",
        "{ p { s(x: [{a: 1, b: 2}], y: 3) s(y: 3, x: [{b: 2, a: 1}]) } }",
        "{ n { ... on P { v: s } ... on R { v: s(x: 1) } } }",
        "{ any { ... on P { list { t } } } }",
        "{ p { a: s(x: 1) } ...F } fragment F on Query { p { a: s(x: 1) } }",
    ],
)
def test_fields_that_agree_or_never_meet_can_be_merged(document: str) -> None:
    assert errors_of(FieldsCanMergeRule, document) == []


def repeated(count: int) -> Iterator[str]:
    yield "{ p { " + "s " * count + "} }"
    yield "{ " + "p { s } " * count + "}"
    yield "{ p { " + "n { n { n { s } } } " * (count // 4) + "} }"
    yield "{ p { " + "... on P { s } " * count + "} }"
    spreads = " ".join(f"...F{number}" for number in range(count // 2))
    fragments = " ".join(
        f"fragment F{number} on P {{ s n {{ t }} }}" for number in range(count // 2)
    )
    yield f"{{ p {{ {spreads} }} }} {fragments}"


@pytest.mark.parametrize("number", range(5))
def test_a_document_takes_as_many_steps_as_it_has_fields(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MAX_STEPS", 6000)
    assert errors_of(FieldsCanMergeRule, list(repeated(1000))[number]) == []


def test_arguments_are_looked_at_once_however_often_their_field_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[Node] = []

    def noting(node: Node) -> str:
        looked_at.append(node)
        return print_ast(node)

    monkeypatch.setattr(merging, "print_ast", noting)
    spreads = " ".join(f"p{number}: p {{ ...F ...G }}" for number in range(100))
    fragments = " ".join(f"fragment {name} on P {{ s(x: 1) }}" for name in "FG")

    assert errors_of(FieldsCanMergeRule, f"{{ {spreads} }} {fragments}") == []
    assert len(looked_at) == 2


def diverging(depth: int) -> str:
    """Return a document in which each level doubles the fields that must merge."""
    below = "s"
    for level in range(depth):
        deep = f"n {{ a{level}: s }}"
        for _ in range(depth - level):
            deep = f"n {{ {deep} b{level}: s }}"
        below = f"n {{ {below} }} ... on P {{ {deep} }} ... on Q {{ {deep} }}"
    return f"{{ n {{ {below} }} }}"


def test_a_document_that_takes_too_many_steps_is_refused() -> None:
    with pytest.raises(QueryTooComplex):
        errors_of(FieldsCanMergeRule, diverging(24))


def test_fragments_in_a_circle_have_an_end() -> None:
    circle = "{ n { ...F } } fragment F on Node { n { ...G } } fragment G on Node { n { ...F } s }"
    assert errors_of(FieldsCanMergeRule, circle) == []
