"""Each document is parsed and validated once, which only its speed shows."""

import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest
import strawberry
from graphql import GraphQLError, ValidationRule, parse
from strawberry.extensions import (
    AddValidationRules,
    DisableValidation,
    MaxAliasesLimiter,
    MaxTokensLimiter,
    ParserCache,
    QueryDepthLimiter,
    SchemaExtension,
    ValidationCache,
)
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.types import ExecutionContext
from strawberry.types.graphql import OperationType

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.execution import documents, operation
from gqlnotify.execution.documents import Documents, resume_variables
from tests.applications import application, client_of, post
from tests.e2e.raw import open_socket
from tests.execution import TOLD, Stage, audience, both_ways, sizes, subscribe_all, told
from tests.servers import running


@dataclass
class Counted:
    """Which documents were parsed and validated."""

    parsed: list[str] = field(default_factory=list)
    validated: list[Any] = field(default_factory=list)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()

    def counting(real: Callable[..., Any], calls: list[Any], position: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(args[position])
            return real(*args, **kwargs)

        return call

    for module in ("strawberry.schema.schema", documents.__name__, operation.__name__):
        for name, calls, position in (
            ("parse", counted.parsed, 0),
            ("parse_document", counted.parsed, 0),
            ("validate", counted.validated, 1),
            ("validate_document", counted.validated, 1),
            ("Validation", counted.validated, 1),
        ):
            target = f"{module}.{name}"
            real = _found(target)
            if real is not None:
                monkeypatch.setattr(target, counting(real, calls, position))
    return counted


def _found(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name, None)


EXTENSIONS: list[tuple[Any, ...]] = [
    (),
    (lambda: MaxAliasesLimiter(5),),
    (lambda: QueryDepthLimiter(3), lambda: MaxAliasesLimiter(5)),
    (lambda: MaxTokensLimiter(100),),
    (lambda: AddValidationRules([]),),
    (ParserCache, ValidationCache),
]
DOCUMENTS = [
    "{ hello }",
    'mutation { echo(word: "a") }',
    'query { hello(word: "query, mutation, subscription") }',
    "{ query: hello mutation: hello }",
]


@pytest.mark.processes
@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("extensions", EXTENSIONS[:-1], ids=range(len(EXTENSIONS) - 1))
async def test_a_document_is_parsed_and_validated_once_however_it_comes(
    counted: Counted, extensions: tuple[Any, ...], document: str
) -> None:
    async with both_ways(Stage(extensions=extensions).router()) as (client, socket):
        for _ in range(3):
            assert "errors" not in await post(client, document)
            await socket.query(document)
    # Parsed once more only to count its operations, if the text alone does not show that.
    assert len(counted.parsed) <= 2
    assert len(counted.validated) == 1


@pytest.mark.processes
@pytest.mark.parametrize("extensions", EXTENSIONS[:-1], ids=range(len(EXTENSIONS) - 1))
async def test_a_subscription_is_parsed_and_validated_once_for_all(
    counted: Counted, extensions: tuple[Any, ...]
) -> None:
    stage = Stage(extensions=extensions)
    router = stage.router()
    async with audience(router, *["somebody"] * 5) as five:
        await subscribe_all(router, five, TOLD)
        for text in ("one", "two"):
            await stage.say(text)
            assert await told(five) == [text] * 5
        assert sizes(router) == [5]
    assert counted.parsed == [TOLD]
    assert len(counted.validated) == 1


# Invalid documents get the same errors again

WRONG = [
    "{",
    "",
    "{ unknown }",
    "{ hello hello(word: 1) }",
    "query A { hello } query A { hello }",
    "#",
    "{ hello(word: 1) }",
]


@pytest.mark.processes
@pytest.mark.parametrize("document", WRONG)
@pytest.mark.parametrize("extensions", EXTENSIONS, ids=range(len(EXTENSIONS)))
async def test_errors_in_documents_are_reported_as_by_strawberry(
    extensions: tuple[Any, ...], document: str
) -> None:
    stage = Stage(extensions=extensions)
    body = {"query": document, "operationName": "A" if " A " in document else None}
    answers = []
    open_to_all = stage.router(settings=Settings())
    for router in (StrawberryRouter(stage.schema), open_to_all, open_to_all):
        async with running(application(router)) as origin, client_of(origin) as client:
            answer = await client.post("/graphql", json=body)
        answers.append((answer.status_code, answer.json() if answer.status_code == 200 else None))
    assert answers[1] == answers[2] == answers[0]


LIMITED: list[tuple[Any, str, str]] = [
    (lambda: MaxAliasesLimiter(1), "{ a: hello b: hello }", "aliases"),
    (lambda: QueryDepthLimiter(1), "{ nested { nested { nested { hello } } } }", "depth"),
    (lambda: MaxTokensLimiter(4), "{ a: hello b: hello }", "token"),
]


@pytest.mark.processes
@pytest.mark.parametrize(("limit", "document", "word"), LIMITED)
async def test_a_limit_refuses_each_time(limit: Any, document: str, word: str) -> None:
    async with both_ways(Stage(extensions=[limit]).router()) as (client, socket):
        for _ in range(3):
            assert word in (await post(client, document))["errors"][0]["message"]
            await socket.subscribe("1", document)
            assert word in (await socket.error("1"))[0]["message"]
        assert "errors" not in await post(client, "{hello}")


class ByName(SchemaExtension):
    """Limits each connection by its name."""

    def on_operation(self) -> Iterator[None]:
        context: Any = self.execution_context.context
        limit = int(context["connection_params"]["name"])
        self.execution_context.validation_rules += self.rules(limit)
        yield

    def rules(self, limit: int) -> tuple[Any, ...]:
        raise NotImplementedError


class Closing(ByName):
    def rules(self, limit: int) -> tuple[Any, ...]:
        class Short(ValidationRule):
            def enter_field(self, node: Any, *_args: Any) -> None:
                if len(node.name.value) > limit:
                    self.report_error(GraphQLError("too long"))

        return (Short,)


class Defaulting(ByName):
    def rules(self, limit: int) -> tuple[Any, ...]:
        class Short(ValidationRule):
            def enter_field(self, node: Any, *_args: Any, most: int = limit) -> None:
                if len(node.name.value) > most:
                    self.report_error(GraphQLError("too long"))

        return (Short,)


class Attributing(ByName):
    def rules(self, limit: int) -> tuple[Any, ...]:
        class Short(ValidationRule):
            most = limit

            def enter_field(self, node: Any, *_args: Any) -> None:
                if len(node.name.value) > self.most:
                    self.report_error(GraphQLError("too long"))

        return (Short,)


class Inheriting(ByName):
    def rules(self, limit: int) -> tuple[Any, ...]:
        (base,) = Attributing.rules(self, limit)  # type: ignore[arg-type]

        class Shorter(base):  # type: ignore[misc, valid-type]
            pass

        return (Shorter,)


@pytest.mark.processes
@pytest.mark.parametrize("extension", [Closing, Defaulting, Attributing, Inheriting])
async def test_one_limit_is_not_taken_for_another(extension: type[ByName]) -> None:
    router = Stage(extensions=[extension]).router()
    async with audience(router, "100", "2", "100") as (free, limited, again):
        assert await free.query("{ hello }") == {"hello": "world"}
        await limited.subscribe("1", "{ hello }")
        assert (await limited.error("1"))[0]["message"] == "too long"
        assert await again.query("{ hello }") == {"hello": "world"}


class Listing(SchemaExtension):
    def on_operation(self) -> Iterator[None]:
        self.execution_context.validation_rules = list(  # type: ignore[assignment]
            self.execution_context.validation_rules
        )
        yield


@pytest.mark.processes
async def test_rules_can_be_given_in_a_list() -> None:
    async with both_ways(Stage(extensions=[Listing]).router()) as (_client, socket):
        assert await socket.query("{ hello }") == {"hello": "world"}


@pytest.mark.processes
async def test_validation_that_is_switched_off_stays_off(counted: Counted) -> None:
    async with both_ways(Stage(extensions=[DisableValidation]).router()) as (client, _socket):
        for _ in range(2):
            await post(client, "{ hello unknown }")
    assert counted.parsed == ["{ hello unknown }"]


# The memory is bounded


class Noting(QueryDepthLimiter):
    """Adds a rule that can't be compared: it refers to the operation's own extension."""

    def __init__(self) -> None:
        super().__init__(5, callback=self.note)

    def note(self, depths: dict[str, int]) -> None:
        self.depths = depths


@pytest.mark.processes
async def test_rules_that_are_always_new_do_not_pile_up() -> None:
    stage = Stage(extensions=[Noting])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        for _ in range(50):
            await alice.query("{ hello }")
    known = router._gqlnotify.executions(router.schema).documents._cache._entries.values()
    assert sum(len(document.obeys) for document, _ in known) < 25


async def test_documents_are_forgotten_and_huge_ones_not_kept(counted: Counted) -> None:
    stage = Stage()
    known = Documents(stage.schema, max_bytes=100_000)
    for number in range(500):
        await _provided(known, f"{{ a{number}: hello }}")
    assert len(known._cache) < 100
    huge = "{ hello }" + " " * 100_000
    for _ in range(2):
        assert (await _provided(known, huge)).graphql_document is not None
    assert counted.parsed.count(huge) == 2


@pytest.mark.processes
@pytest.mark.parametrize(
    "document", ["{ hello", "{ unknown }", "{ hello hello(word: 1) }", "{" + " hello" * 9999 + "}"]
)
@pytest.mark.parametrize("extensions", EXTENSIONS[:-1], ids=range(len(EXTENSIONS) - 1))
async def test_a_refusal_is_remembered(
    counted: Counted, extensions: tuple[Any, ...], document: str
) -> None:
    async with both_ways(Stage(extensions=extensions).router()) as (client, socket):
        answers = list[Any]()
        for _ in range(3):
            answers.append((await post(client, document))["errors"])
            await socket.subscribe("1", document)
            answers.append(await socket.error("1"))
        assert all(answer == answers[0] for answer in answers)
    assert counted.parsed == [document]
    assert len(counted.validated) <= 1


async def test_the_memory_for_refused_documents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_REFUSED_BYTES", 1_000_000)
    known = Documents(Stage().schema)
    for number in range(25):
        context = await _provided(known, f"{{ a{number}" + " hello" * 500 + " }")
        await known.validate(context, "somebody")
        assert context.pre_execution_errors
        with pytest.raises(GraphQLError):
            await _provided(known, "{" * (number + 1))
    assert len(known._cache) == 0
    assert 0 < known.weight <= documents.MAX_REFUSED_BYTES


@pytest.mark.parametrize(
    "document", ["{ " + "nested { hello } " * 500 + "}", "{" + " hello" * 2000 + "}"]
)
async def test_the_weight_of_a_document_is_at_least_its_size(document: str) -> None:
    known = Documents(Stage().schema)
    await _provided(known, "{ hello }")
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    weight = known.weight
    await _provided(known, document)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert known.weight - weight >= taken


# Suggestions

SUGGESTING = [
    ("{ helo }", None),
    ('{ hello(wrd: "a") }', None),
    ("query($a: Strin) { hello(word: $a) }", None),
    ("{ favourite(choice: REDD) }", None),
    ("{ favourite(options: {colr: RED}) }", None),
    ("query($c: Colour!) { favourite(choice: $c) }", {"c": "REDD"}),
    ("query($o: Options!) { favourite(options: $o) }", {"o": {"colr": "RED"}}),
]


@strawberry.enum
class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@strawberry.input
class Options:
    colour: Colour | None = None


@strawberry.type
class Suggestive:
    @strawberry.field
    def hello(self, word: str = "") -> str:
        return word

    @strawberry.field
    def favourite(self, choice: Colour | None = None, options: Options | None = None) -> str:
        return f"{choice} {options}"


@strawberry.type
class SuggestiveFeed:
    @strawberry.subscription
    async def favourite(self, choice: Colour) -> AsyncIterator[str]:
        yield choice.value


@pytest.mark.processes
@pytest.mark.parametrize(("document", "variables"), SUGGESTING)
@pytest.mark.parametrize(
    "extensions", [(), (ParserCache, ValidationCache)], ids=["plain", "cached"]
)
async def test_without_introspection_no_error_suggests_a_name(
    extensions: tuple[Any, ...], document: str, variables: Any
) -> None:
    schema = strawberry.Schema(Suggestive, subscription=SuggestiveFeed, extensions=extensions)
    for allowed in (True, False):
        router = GraphQLRouter(
            schema,
            settings=Settings(introspection=allowed),
            subscription_protocols=("graphql-transport-ws", "graphql-sse"),
        )
        async with running(application(router)) as origin, client_of(origin) as client:
            body = {"query": document, "variables": variables}
            answer = await client.post("/graphql", json=body)
            stream = await client.post(
                "/graphql", json=body, headers={"accept": "text/event-stream"}
            )
            async with open_socket(f"ws://{origin}") as socket:
                await socket.init()
                await socket.subscribe("1", document, variables=variables)
                told = await socket.error("1")
        for text in (answer.text, stream.text, json.dumps(told)):
            assert "errors" in text or "message" in text
            assert ("Did you mean" in text) is allowed


@pytest.mark.processes
async def test_without_introspection_a_subscription_suggests_no_value() -> None:
    schema = strawberry.Schema(Suggestive, subscription=SuggestiveFeed)
    router = GraphQLRouter(schema, settings=Settings(introspection=False))
    async with running(application(router)) as origin, open_socket(f"ws://{origin}") as socket:
        await socket.init()
        document = "subscription($c: Colour!) { favourite(choice: $c) }"
        await socket.subscribe("1", document, variables={"c": "REDD"})
        assert "RED'" not in (await socket.error("1"))[0]["message"].replace("REDD'", "")


async def _provided(known: Documents, query: str) -> Any:
    context = ExecutionContext(
        query=query,
        schema=known._schema,
        allowed_operations=frozenset(OperationType),
    )
    await known.provide(context, "somebody")
    return context


# Extensions that replace the document


class Replacing(SchemaExtension):
    """Gives each viewer another document, or another query."""

    how = "document"

    def on_parse(self) -> Iterator[None]:
        context: Any = self.execution_context
        name = context.context["connection_params"]["name"]
        query = f'{{ hello(word: "{name}") }}'
        if self.how == "document":
            context.graphql_document = parse(query)
        else:
            context.query = query
        yield
        if self.how == "late":
            context.graphql_document = parse(query)


@pytest.mark.processes
@pytest.mark.parametrize("how", ["document", "query", "late"])
async def test_an_extension_that_replaces_the_document_does_not_affect_others(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replacing, "how", how)
    router = Stage(extensions=[Replacing]).router()
    async with audience(router, "alice", "bob", "alice") as three:
        for _ in range(2):
            words = [(await socket.query("{ hello }"))["hello"] for socket in three]
            assert words == ["alice", "bob", "alice"]


class ReplacingSubscriptions(SchemaExtension):
    def on_parse(self) -> Iterator[None]:
        yield
        context: Any = self.execution_context
        if context.context["connection_params"]["name"] == "alice":
            context.graphql_document = parse("subscription { notes { told text } }")


@pytest.mark.processes
async def test_a_subscription_with_a_replaced_document_does_not_share() -> None:
    stage = Stage(extensions=[ReplacingSubscriptions])
    router = stage.router()
    async with audience(router, "alice", "bob", "bob") as three:
        await subscribe_all(router, three, TOLD)
        assert sizes(router) == [1, 2]
        await stage.say("hi")
        assert [len((await s.next("1"))["data"]["notes"]) for s in three] == [2, 1, 1]


# Documents that are too deep


@pytest.mark.processes
@pytest.mark.parametrize("depth", [50, 90, 120, 160, 200, 300, 3000])
async def test_a_document_of_any_depth_has_an_answer_and_harms_no_other(depth: int) -> None:
    document = "{ nested " * depth + "{ hello }" + "}" * depth
    async with both_ways(Stage().router()) as (client, socket):
        for _ in range(2):
            await socket.subscribe("deep", document)
            message = await socket.receive()
            assert message["type"] in {"error", "next"}
            if message["type"] == "next":
                await socket.completed("deep")
            else:
                assert "Internal" not in json.dumps(message)
            assert (await client.post("/graphql", json={"query": document})).status_code == 200
            assert await socket.query("{ hello }") == {"hello": "world"}


# The cursor of a subscription


CASES: list[tuple[str, set[str]]] = [
    ("subscription ($a: String) { notes(after: $a) { text } }", {"a"}),
    ("subscription ($a: String!) { notes(after: $a) { text } }", {"a"}),
    ("subscription ($a: String) { notes(after: $a) { altered(value: $a) } }", set()),
    ("subscription ($a: String) { notes(after: $a) { altered(value: [$a]) } }", set()),
    ("subscription ($a: String) { notes(after: $a) { altered(value: {b: {c: $a}}) } }", set()),
    ("subscription ($a: String) { notes(after: $a) @include(if: $a) { text } }", set()),
    ("subscription ($a: String) { notes { altered(after: $a) } }", set()),
    ("subscription ($a: String) { notes(before: $a) { text } }", set()),
    ('subscription ($a: String) { notes(after: "1-1") { text } }', set()),
    ("subscription ($a: String) { notes(after: $a) { ...F } } "
     "fragment F on Note { altered(value: $a) }", set()),
    ("subscription ($a: String) { ...F } fragment F on Feed { notes(after: $a) { text } }", set()),
    ("subscription ($a: String) { notes(after: $a) { text } notes(after: $a) { text } }", {"a"}),
    ("subscription ($a: String, $b: Int) { notes(after: $a, b: $b) { text } }", {"a"}),
    ("subscription { notes { text } }", set()),
    ("subscription { ... on Feed { notes { text } } }", set()),
    ("fragment F on Note { text }", set()),
]  # fmt: skip


@pytest.mark.parametrize(("document", "expected"), CASES)
def test_the_variable_after_is_a_cursor_only_if_nothing_else_uses_it(
    document: str, expected: set[str]
) -> None:
    assert set(resume_variables(parse(document), None)) == expected


def test_the_cursor_is_that_of_the_named_operation() -> None:
    document = parse(
        "subscription A($a: String) { notes(after: $a) { text } }"
        "subscription B($b: String) { notes(after: $b) { text } }"
    )
    assert set(resume_variables(document, "B")) == {"b"}
    assert set(resume_variables(document, "C")) == set()


@pytest.mark.processes
async def test_a_required_position_is_shared_too() -> None:
    stage = Stage()
    router = stage.router()
    document = "subscription ($after: String!) { notes(after: $after) { told } }"
    async with audience(router, "alice", "bob") as both:
        for socket in both:
            after = await stage.say("earlier")
            await subscribe_all(router, [socket], document, variables={"after": after})
        assert sizes(router) == [2]


@pytest.mark.processes
async def test_a_document_is_known_under_each_of_its_operations() -> None:
    stage = Stage()
    router = stage.router()
    document = "subscription A { notes { told } } subscription B { notes { text } }"
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], document, operationName="A")
        await subscribe_all(router, [bob], document, operationName="B")
        await stage.say("hi")
        assert (await alice.next("1"))["data"] == {"notes": {"told": "hi"}}
        assert (await bob.next("1"))["data"] == {"notes": {"text": "hi"}}


def test_the_schema_is_not_changed() -> None:
    stage = Stage()
    before = dict(vars(stage.schema))
    router = stage.router()
    assert router.schema is stage.schema
    assert vars(stage.schema) == before
