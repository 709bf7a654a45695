"""The application: one topic, three ways to subscribe, and a manager at module level."""

import os
from collections.abc import AsyncIterator

import strawberry
from fastapi import FastAPI
from pydantic import SecretStr
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager

SECRET = os.environ.get("CHAT_SECRET")
MESSAGES = Topic("messages", str)
settings = Settings(broker_url="memory://", jwt_secret=SecretStr(SECRET) if SECRET else None)
topics = TopicManager(settings=settings)


@strawberry.type
class Query:
    """The queries."""

    @strawberry.field
    async def remembered(self) -> int:
        """Return how many messages the history holds."""
        oldest, last = await topics.oldest(MESSAGES), await topics.cursor(MESSAGES)
        return last.seq - oldest.seq

    @strawberry.field
    async def readers(self) -> int:
        """Return the number of subscribers in this process."""
        return sum(topics.readers.values())


@strawberry.type
class Mutation:
    """The mutations."""

    @strawberry.mutation
    async def say(self, text: str, event_id: str | None = None) -> str:
        """Publish `text` and return its cursor."""
        return str(await topics.publish(MESSAGES, text, event_id=event_id))


@strawberry.type
class Subscription:
    """The subscriptions."""

    @strawberry.subscription
    async def shared(self, after: str | None = None) -> AsyncIterator[str]:
        """Execute each event once for all."""
        return topics.subscribe(MESSAGES, after=after)

    @strawberry.subscription
    async def per_viewer(self, after: str | None = None) -> AsyncIterator[str]:
        """Execute each event for each viewer."""
        return topics.subscribe(MESSAGES, after=after, per_viewer=True)

    @strawberry.subscription
    async def generated(self, after: str | None = None) -> AsyncIterator[str]:
        """Iterate in a generator."""
        async for text in topics.subscribe(MESSAGES, after=after):
            yield text


schema = strawberry.Schema(Query, Mutation, Subscription)
app = FastAPI()
router: GraphQLRouter[None, None] = GraphQLRouter(
    schema,
    topics=topics,
    settings=settings,
    subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL],
)
app.include_router(router, prefix="/graphql")
