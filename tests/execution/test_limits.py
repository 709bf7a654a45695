"""A document is measured in one pass, as if its fragments were expanded."""

from typing import Any

import pytest
from graphql import get_introspection_query, parse, validate
from prometheus_client import REGISTRY
from strawberry.extensions import DisableValidation, ParserCache, ValidationCache

from gqlnotify import Settings, errors
from gqlnotify.execution.limits import Limits, Size, measure
from tests.applications import (
    EVENT_STREAM,
    MULTIPART,
    SSE,
    bearer,
    http,
    post,
)
from tests.applications import events as server_sent
from tests.applications import parts as multiparts
from tests.e2e.conftest import SECRET
from tests.execution import Stage, both_ways

EVERYTHING: dict[str, Any] = {
    "specified_by_url": True,
    "directive_is_repeatable": True,
    "schema_description": True,
    "input_value_deprecation": True,
    "experimental_directive_deprecation": True,
    "one_of": True,
}
DEFAULTS = Limits.from_settings(Settings())


@pytest.mark.parametrize(
    ("document", "size"),
    [
        ("{ a }", Size(1, 0, 1)),
        ("{ a { b } c { d { e } } }", Size(3, 0, 5)),
        ("{ x: a y: a }", Size(1, 2, 2)),
        ("{ ... { a { ... on B @include(if: true) { b } } } }", Size(2, 0, 2)),
        ("{ ...F ...F } fragment F on Q { x: a { b } }", Size(2, 2, 6)),
        ("{ a { ...F } } fragment F on A { b { ...G } } fragment G on B { c }", Size(3, 0, 5)),
        ("query A { a } query B { x: a { b } }", Size(2, 1, 3)),
        ("{ a } fragment Unused on Q { x: a y: a }", Size(1, 2, 2)),
        ("{ ...Unknown }", Size(0, 0, 1)),
        ("query($v: [Int]) { a(b: [1, $v], c: {d: $v}) @skip(if: $v) }", Size(1, 0, 4)),
        ("{ __typename a { __typename } }", Size(2, 0, 3)),
        ("{ __schema { types { name } } }", Size(0, 0, 3, introspects=True)),
        ("{ s: __type(name: $a) { n: name } a }", Size(1, 2, 4, introspects=True)),
        ("{ ...F } fragment F on Q { __schema { a { b } } }", Size(0, 0, 4, introspects=True)),
        ("{ __schema: a { b { c } } }", Size(3, 1, 3)),
        ("{}", Size()),
        ("type A { a: Int }", Size()),
    ],
)
def test_a_document_has_the_size_of_what_it_asks_for(document: str, size: Size) -> None:
    assert measure(parse(document)) == size


@pytest.mark.parametrize(
    "document",
    [
        "{ ...F } fragment F on Q { a { ...F } }",
        "{ ...F } fragment F on Q { a ...G } fragment G on Q { b ...F }",
    ],
)
def test_fragments_in_a_circle_are_measured_for_validation_to_refuse(document: str) -> None:
    assert measure(parse(document)).fields >= 1


def test_fragments_that_double_at_each_level_are_refused_at_once() -> None:
    lines = [f"fragment F{n} on Q {{ ...F{n + 1} ...F{n + 1} }}" for n in range(1, 190)]
    document = parse("{ ...F1 } " + " ".join(lines) + " fragment F190 on Q { x: a }")
    size = measure(document)

    assert document.token_count is not None
    assert document.token_count < DEFAULTS.tokens
    assert size.fields == size.aliases == 10**9
    with pytest.raises(errors.TooManyAliases, match="50"):
        DEFAULTS.check(size)


def test_no_document_that_can_be_parsed_is_too_deep_to_be_measured() -> None:
    depth = 1
    try:
        while depth < 5000:
            document = parse("{ a" * depth + "}" * depth)
            depth += 20
    except Exception:
        assert depth > 100

    assert measure(document).depth == depth - 20


def test_introspection_as_graphiql_does_it_is_within_the_defaults() -> None:
    document = parse(get_introspection_query(**EVERYTHING))

    DEFAULTS.check(measure(document))
    assert document.token_count is not None
    assert document.token_count < DEFAULTS.tokens
    assert validate(Stage().schema._schema, document) == []


# The errors that a client gets


def nested(depth: int) -> str:
    return "{ nested " * (depth - 1) + "{ hello }" + " }" * (depth - 1)


def many(count: int) -> str:
    return "{ " + " ".join(f"a{n}: hello" for n in range(count)) + " }"


def doubling(lines: int) -> str:
    spreads = [f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(lines)]
    return f"{{ ...F0 }} {' '.join(spreads)} fragment F{lines} on Query {{ hello }}"


SMALL = Settings(
    jwt_secret=SECRET,  # type: ignore[arg-type]
    query_max_tokens=100,
    query_max_depth=4,
    query_max_aliases=3,
    query_max_complexity=12,
)
ALLOWED = [nested(4), many(3), doubling(2), "{ hello }"]
REFUSED = [
    ("TOO_MANY_TOKENS", "{" + " hello" * 100 + "}", "100"),
    ("TOO_MANY_TOKENS", "query A { hello } query B {" + " hello" * 100 + "}", "100"),
    ("QUERY_TOO_DEEP", nested(5), "nested 5 deep, the limit that query_max_depth sets is 4"),
    ("TOO_MANY_ALIASES", many(4), "4 aliases, the limit that query_max_aliases sets is 3"),
    ("QUERY_TOO_COMPLEX", "{" + " hello" * 13 + "}", "13 fields"),
    ("QUERY_TOO_COMPLEX", doubling(3), "23 fields"),
]
EXTENSIONS: list[tuple[Any, ...]] = [
    (),
    (DisableValidation,),
    (ParserCache, ValidationCache),
]


def counted(code: str) -> float:
    labels = {"reason": code.lower()}
    return REGISTRY.get_sample_value("gqlnotify_refusals_total", labels) or 0


@pytest.fixture(params=EXTENSIONS, ids=["alone", "extended", "cached"])
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(extensions=request.param)


@pytest.mark.processes
@pytest.mark.parametrize(("code", "document", "says"), REFUSED)
async def test_too_much_is_refused_over_websocket_and_over_http_and_counted(
    stage: Stage, code: str, document: str, says: str
) -> None:
    # An extension that parses before ours stops at the same limit, with a syntax error.
    ours = code != "TOO_MANY_TOKENS" or ParserCache not in stage.schema.extensions
    async with both_ways(stage.router(settings=SMALL)) as (client, socket):
        for _ in range(2):
            before = counted(code)
            await socket.subscribe("1", document)
            (error,) = await socket.error("1")
            assert says in error["message"]
            (answer,) = (await post(client, document))["errors"]
            assert says in answer["message"]
            if ours:
                assert error["extensions"]["code"] == answer["extensions"]["code"] == code
                assert counted(code) == before + 2
            assert await socket.query("{ hello }") == {"hello": "world"}


@pytest.mark.processes
@pytest.mark.parametrize("document", ALLOWED)
async def test_a_document_just_within_the_limits_is_answered(stage: Stage, document: str) -> None:
    async with both_ways(stage.router(settings=SMALL)) as (client, socket):
        assert await socket.query(document)
        assert "errors" not in await post(client, document)


@pytest.mark.processes
async def test_too_much_is_refused_in_streams_and_subscriptions() -> None:
    document = "subscription { notes { a: text b: text c: text d: text } }"
    protocols = ("graphql-transport-ws", SSE, "multipart-subscription")
    router = Stage().router(settings=SMALL, subscription_protocols=protocols)
    async with http(router, headers=bearer()) as client:
        body = {"query": document}
        by_sse = await client.post("/graphql", json=body, headers=EVENT_STREAM)
        by_parts = await client.post("/graphql", json=body, headers=MULTIPART)

    results = [server_sent(by_sse.text)[0][1], multiparts(by_parts.text)[0]]
    assert [t["errors"][0]["extensions"]["code"] for t in results] == ["TOO_MANY_ALIASES"] * 2


@pytest.mark.processes
async def test_a_refused_document_is_not_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise AssertionError("it was validated")

    for module in (
        "gqlnotify.execution.documents.Validation",
        "strawberry.schema.schema.validate_document",
    ):
        monkeypatch.setattr(module, fail)
    async with both_ways(Stage().router(settings=SMALL)) as (client, socket):
        await socket.subscribe("1", nested(5))
        assert (await socket.error("1"))[0]["extensions"]["code"] == "QUERY_TOO_DEEP"
        answer = await post(client, nested(5))
        assert answer["errors"][0]["extensions"]["code"] == "QUERY_TOO_DEEP"


# Introspection


@pytest.mark.processes
async def test_without_introspection_no_answer_reveals_the_schema() -> None:
    settings = Settings(jwt_secret=SECRET, introspection=False)  # type: ignore[arg-type]
    documents = [
        get_introspection_query(),
        '{ hello x: __type(name: "Query") { name } }',
        "{ ...F } fragment F on Query { __schema { queryType { name } } }",
    ]
    async with both_ways(Stage().router(settings=settings)) as (client, socket):
        for document in documents:
            await socket.subscribe("1", document)
            assert (await socket.error("1"))[0]["extensions"]["code"] == "INTROSPECTION_DISABLED"
            answer = await post(client, document)
            assert answer["errors"][0]["extensions"]["code"] == "INTROSPECTION_DISABLED"
        assert await socket.query("{ __typename }") == {"__typename": "Query"}
        page = await client.get("/graphql", headers={"accept": "text/html"})
        assert page.status_code == 404


@pytest.mark.processes
async def test_where_introspection_is_on_graphiql_has_its_answer_and_its_page() -> None:
    settings = Settings(jwt_secret=SECRET)  # type: ignore[arg-type]
    async with both_ways(Stage().router(settings=settings)) as (client, socket):
        assert "__schema" in await socket.query(get_introspection_query(**EVERYTHING))
        page = await client.get("/graphql", headers={"accept": "text/html"})
        assert page.status_code == 200
