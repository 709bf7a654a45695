"""Only who has the right gets anything from the console."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from graphql import (
    GraphQLField,
    GraphQLObjectType,
    build_schema,
    get_named_type,
    is_required_argument,
    parse,
    validate,
)

from gqlnotify import Principal, Settings, TopicManager
from gqlnotify.console.schema import schema
from gqlnotify.testing import connect
from gqlnotify.testing.errors import Disconnected, OperationFailed
from tests.console.support import API, SETTINGS, application, token
from tests.servers import NO_TLS

ROOTS = ("Query", "Mutation", "Subscription")
WITHOUT: dict[str, str] = {"subscribe": "*", "publish": "*", "presence": "*"}


def documents() -> Iterator[tuple[str, str]]:
    """Yield an operation for each root field, with every field below it."""
    built = build_schema(schema.as_str())
    for root in ROOTS:
        type_ = built.get_type(root)
        assert isinstance(type_, GraphQLObjectType)
        for name, field in type_.fields.items():
            yield root.lower(), f"{name}{arguments(field)}{selection(field)}"
    yield "query", "__typename"
    yield "query", "__schema { types { name } }"


def arguments(field: GraphQLField) -> str:
    needed = [f'{name}: "x"' for name, each in field.args.items() if is_required_argument(each)]
    return f"({', '.join(needed)})" if needed else ""


def selection(field: GraphQLField) -> str:
    type_ = get_named_type(field.type)
    if not isinstance(type_, GraphQLObjectType):
        return ""
    inner = [name + selection(below) for name, below in type_.fields.items()]
    return " { " + " ".join(inner) + " }"


DOCUMENTS = list(documents())


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return application()


@pytest.mark.parametrize(("kind", "field"), DOCUMENTS)
async def test_no_field_is_answered_without_the_right(app: FastAPI, kind: str, field: str) -> None:
    body = {"query": f"{kind} {{ {field} }}"}
    headers = {"Authorization": f"Bearer {token(**WITHOUT)}"}

    async with http(app) as client:
        without_token = await client.post(API, json=body)
        without_right = await client.post(API, json=body, headers=headers)

    assert without_token.status_code == 401
    assert without_right.status_code == 403
    for refused in (without_token, without_right):
        assert "data" not in refused.json()
    [error] = without_right.json()["errors"]
    assert error["message"] == "This token has no right to use 'console'"


def test_each_of_these_operations_is_valid() -> None:
    # Or the test above would prove nothing.
    built = build_schema(schema.as_str())
    for kind, field in DOCUMENTS:
        assert validate(built, parse(f"{kind} {{ {field} }}")) == []


async def test_a_socket_without_the_right_is_closed(app: FastAPI) -> None:
    with pytest.raises(Disconnected, match="4403"):
        async with connect(app, token=token(**WITHOUT), path=API):
            pass


async def test_a_hook_can_decide_who_has_the_right() -> None:
    def may(principal: Principal, action: str, topic: str) -> bool:
        return (principal.subject, action, topic) == ("root", "admin", "console")

    app = application(may=may)

    async with connect(app, token=token("root", **WITHOUT), path=API) as client:
        assert (await client.execute("{ overview { connections } }")).data
    with pytest.raises(Disconnected):
        async with connect(app, token=token("operator"), path=API):
            pass


async def test_the_limits_on_documents_of_the_application_do_not_close_the_console() -> None:
    strict = SETTINGS.model_copy(update={"query_max_depth": 1, "query_max_tokens": 10})
    app = application(TopicManager(settings=strict), settings=strict)

    async with connect(app, token=token(), path=API) as client:
        assert (await client.execute("{ overview { processes { process { name } } } }")).data


@pytest.mark.parametrize("topic", ["gqlnotify.revocations", "gqlnotify.survey.requests"])
@pytest.mark.parametrize(
    "field", ["publish(topic: $topic, value: 1)", "history(topic: $topic) { length }"]
)
async def test_an_internal_topic_is_closed_even_for_operators(
    app: FastAPI, topic: str, field: str
) -> None:
    kind = "mutation" if field.startswith("publish") else "query"
    async with connect(app, token=token(), path=API) as client:
        with pytest.raises(OperationFailed, match="FORBIDDEN"):
            await client.execute(f"{kind}($topic: String!) {{ {field} }}", {"topic": topic})


@pytest.mark.parametrize(
    "document",
    [
        '{ events(topic: "numbers") { searched } }',
        '{ history(topic: "numbers") { length } }',
        '{ presence(topic: "numbers") { count } }',
        'mutation { publish(topic: "numbers", value: 1) }',
    ],
)
async def test_the_events_of_a_topic_need_the_rights_to_the_topic(
    app: FastAPI, document: str
) -> None:
    async with connect(app, token=token(admin="console"), path=API) as client:
        with pytest.raises(OperationFailed, match="FORBIDDEN"):
            await client.execute(document)


def test_a_console_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="The console needs tokens"):
        application(TopicManager(), settings=Settings())


@pytest.mark.parametrize("path", ["console", "/console/"])
def test_a_path_begins_with_a_slash_and_ends_without(path: str) -> None:
    with pytest.raises(ValueError, match="begins with a slash"):
        application(console=path)


async def test_the_page_is_open_and_says_nothing(app: FastAPI) -> None:
    async with http(app) as client:
        page = await client.get("/console")
        script = await client.get("/console/assets/main.js")
        other = await client.get("/console/assets/..%2fmount.py")

    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "./console/assets/main.js" in page.text
    assert script.headers["content-type"].startswith("text/javascript")
    assert other.status_code == 404


def http(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://console", verify=NO_TLS
    )
