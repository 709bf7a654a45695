"""What is told of shared operations while a trace follows them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import strawberry
from fastapi import FastAPI
from pydantic import SecretStr

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager
from gqlnotify.observability import trace
from gqlnotify.testing import Client, Tokens, connect
from gqlnotify.topics import why
from tests.e2e.conftest import SECRET
from tests.waiting import wait_until

NUMBERS = Topic("numbers", int)
SETTINGS = Settings(jwt_secret=SecretStr(SECRET))
NUMBERED = "subscription { numbers }"
SCOPED = "subscription ($scope: String!) { scoped(scope: $scope) }"


@pytest.fixture
def topics() -> TopicManager:
    return TopicManager(settings=SETTINGS)


@pytest.fixture
def app(topics: TopicManager) -> FastAPI:
    @strawberry.type
    class Query:
        version: int = 1

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def numbers(self) -> AsyncIterator[int]:
            return topics.subscribe(NUMBERS)

        @strawberry.subscription
        async def scoped(self, scope: str) -> AsyncIterator[int]:
            return topics.subscribe(NUMBERS, scope=scope)

    made = FastAPI()
    schema = strawberry.Schema(Query, subscription=Subscription)
    made.include_router(GraphQLRouter(schema, topics=topics, settings=SETTINGS), prefix="/graphql")
    return made


@pytest.fixture(autouse=True)
def _no_trace_is_left() -> Iterator[None]:
    yield
    trace.live._traces.clear()
    trace.live.expire()


def client(app: FastAPI, subject: str) -> AbstractAsyncContextManager[Client]:
    return connect(app, token=Tokens(SETTINGS)(subject, subscribe="*"))


async def executed_for(topics: TopicManager, **question: Any) -> list[str | None]:
    """Return for whom the next event was executed, as a trace with this question tells it."""
    asked = {"topic": "numbers", "follow": "a trace", **question}
    await topics.survey.ask(why.ASKED, asked)
    steps: list[dict[str, Any]] = []

    async def is_told() -> bool:
        answers = await topics.survey.ask(why.ASKED, asked)
        steps.extend(answers.answers[0].value["steps"])
        return any(step["kind"] == "executed" for step in steps)

    await topics.publish(NUMBERS, 1)
    await wait_until(is_told)
    return [step.get("subject") for step in steps if step["kind"] == "executed"]


async def test_an_execution_is_told_for_a_followed_subject_until_its_last_operation_ends(
    app: FastAPI, topics: TopicManager
) -> None:
    async with client(app, "alice") as hers, client(app, "bob") as his:
        first, second = await hers.subscribe(NUMBERED), await hers.subscribe(NUMBERED)
        others = await his.subscribe(NUMBERED)
        await topics.publish(NUMBERS, 0)
        for stream in (first, second, others):
            await anext(stream)

        assert await executed_for(topics, subject="alice") == ["alice"]
        await first.stop()
        assert await executed_for(topics, subject="alice") == ["alice"]
        await second.stop()

        # Another trace may still follow all who read the topic.
        everybody = {"follow": "another trace"}
        assert await executed_for(topics, **everybody) == [None]


async def test_an_execution_that_serves_two_scopes_is_told_for_both(
    app: FastAPI, topics: TopicManager
) -> None:
    async with client(app, "alice") as hers, client(app, "bob") as his:
        streams = [await each.subscribe(SCOPED, {"scope": str(each)}) for each in (hers, his)]
        await topics.publish(NUMBERS, 0)
        for stream in streams:
            await anext(stream)

        for subject in ("alice", "bob"):
            assert await executed_for(topics, subject=subject, follow=subject) == [subject]
