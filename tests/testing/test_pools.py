"""`chaos` on applications with a real connection pool, which two of its operations could empty."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import strawberry
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager
from gqlnotify.testing import Kind, Operation, chaos

NOTES = Topic("notes", str)
OPEN = Settings(broker_url="memory://", jwt_secret=None)


@strawberry.type
class Query:
    hello: str = "world"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'notes.db'}"
    engine = create_async_engine(url, pool_size=5, max_overflow=3)
    yield engine
    await engine.dispose()


def notes_app(engine: AsyncEngine, *, holds_a_session: bool) -> tuple[FastAPI, list[Operation]]:
    sessions = async_sessionmaker(engine)
    topics = TopicManager(settings=OPEN)

    async def read() -> None:
        async with sessions() as session:
            await session.execute(text("SELECT 1"))

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def notes(self) -> AsyncIterator[str]:
            return topics.subscribe(NOTES)

        @strawberry.subscription
        async def late(self) -> AsyncIterator[str]:
            await read()
            return topics.subscribe(NOTES)

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            await session.execute(text("SELECT 1"))
            yield session

    async def with_session(session: AsyncSession = Depends(session)) -> dict[str, Any]:  # noqa: B008
        return {"session": session}

    async def without() -> dict[str, Any]:
        return {"sessions": sessions}

    async def write(number: int) -> None:
        await read()
        await topics.publish(NOTES, f"note {number}")

    app = FastAPI()
    context = with_session if holds_a_session else without
    schema = strawberry.Schema(Query, None, Subscription)
    router = GraphQLRouter[Any, None](schema, topics=topics, settings=OPEN, context_getter=context)
    app.include_router(router, prefix="/graphql")
    documents = ("subscription { notes }", "subscription { late }")
    return app, [Operation(document=document, cause=write) for document in documents]


async def test_a_session_for_each_event_is_clean(engine: AsyncEngine) -> None:
    app, operations = notes_app(engine, holds_a_session=False)

    (await chaos(app, operations, missed=10, crowd=12)).check()


async def test_sockets_that_empty_the_pool_are_found(engine: AsyncEngine) -> None:
    app, operations = notes_app(engine, holds_a_session=True)

    [problem] = (await chaos(app, operations, missed=10, crowd=12)).problems

    assert problem.kind is Kind.FAILED
    assert "worked with one client, and did not return with" in problem.what
    assert "database session" in problem.look_at
