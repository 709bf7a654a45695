"""The application that every simulated process serves: rooms with numbered messages.

The schema is made once. Its resolvers use the topics of the process whose event loop runs.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from functools import cache, partial
from typing import Any

import strawberry
from fastapi import FastAPI
from pydantic import SecretStr

from gqlnotify import (
    Change,
    Event,
    GraphQLRouter,
    Settings,
    Snapshot,
    Topic,
    TopicManager,
    current_principal,
)
from tests.e2e.conftest import SECRET


@strawberry.type
class Message:
    number: int


ROOMS = Topic("rooms.<name>", Message, presence=True)
NAMES = ("red", "blue", "late")
"""The rooms. Few events go to the last one, so it often does not exist."""
UNREADABLE = b'{"number":"none"}'


def room(name: str) -> Topic[Message]:
    return ROOMS(name=name)


def _topics() -> TopicManager:
    loop: Any = asyncio.get_running_loop()
    topics: TopicManager = loop.topics
    return topics


@strawberry.type
class Listed:
    snapshot: list[int] | None = None
    change: Message | None = None


def _listed(each: Snapshot[int] | Change[Message], _event: Event) -> Listed:
    return Listed(snapshot=each.items) if isinstance(each, Snapshot) else Listed(change=each.value)


async def _load(name: str) -> list[int]:
    """Return the numbers of a room, slowly."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(random.uniform(0, 0.2))
    events = loop.redis.server.truth.of_room(name)
    numbers = [
        json.loads(event.payload)["number"] for event in events if event.payload != UNREADABLE
    ]
    await asyncio.sleep(random.uniform(0, 0.2))
    return numbers


@strawberry.type
class Query:
    @strawberry.field
    async def cursor(self, name: str) -> str:
        return await _topics().cursor(room(name))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def shared(self, name: str) -> AsyncIterator[Message]:
        return _topics().subscribe(room(name))

    @strawberry.subscription
    async def listed(self, name: str) -> AsyncIterator[Listed]:
        return (
            _topics()
            .live(room(name), load=partial(_load, name), key=lambda message: message.number)
            .map(_listed)
        )

    @strawberry.subscription
    async def mine(self, name: str) -> AsyncIterator[str]:
        return (
            _topics()
            .subscribe(room(name), per_viewer=True)
            .map(lambda message, event: f"{current_principal().subject} {message.number}")
        )


DOCUMENTS = {
    "shared": "subscription ($name: String!) { shared(name: $name) { number } }",
    "listed": """subscription ($name: String!) {
        listed(name: $name) { snapshot change { number } }
    }""",
    "mine": "subscription ($name: String!) { mine(name: $name) }",
}
CURSOR = "query ($name: String!) { cursor(name: $name) }"
SCHEMA = strawberry.Schema(Query, subscription=Subscription)


@cache
def _settings() -> Settings:
    # Reading the environment takes a tenth of a simulation's time.
    return Settings(
        broker_url="redis://simulated",
        broker_timeout=2,
        broker_wait=60,
        jwt_secret=SecretStr(SECRET),
        ping_interval=5,
        ping_timeout=5,
        ack_interval=0.5,
        drain_window=1,
        auto_resume_seconds=600,
    )


def settings(**changes: Any) -> Settings:
    """Return the settings of all processes of a simulation."""
    return _settings().model_copy(update=changes)


def create_app(settings: Settings) -> tuple[FastAPI, TopicManager, GraphQLRouter[Any, Any]]:
    topics = TopicManager(settings=settings)
    router = GraphQLRouter(SCHEMA, topics=topics, settings=settings)
    app = FastAPI()
    app.include_router(router, prefix="/graphql")
    return app, topics, router
