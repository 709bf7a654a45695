"""An application in which an event may not arrive for many reasons."""

from collections.abc import AsyncIterator

import strawberry
from fastapi import FastAPI
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager, current_principal

SETTINGS = Settings()
topics = TopicManager(settings=SETTINGS)


@strawberry.type
class Note:
    tenant: str
    text: str


NOTES = Topic("notes", Note)
QUIET = Topic("quiet", str)


@strawberry.type
class Query:
    @strawberry.field
    async def cursor(self) -> str:
        return await topics.cursor(NOTES)


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def add(self, tenant: str, text: str) -> str:
        return await topics.publish(NOTES, Note(tenant=tenant, text=text))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def notes(self) -> AsyncIterator[Note]:
        return topics.subscribe(NOTES)

    @strawberry.subscription
    async def quiet(self) -> AsyncIterator[str]:
        return topics.subscribe(QUIET)

    @strawberry.subscription
    async def about(self, word: str) -> AsyncIterator[Note]:
        def mentions_the_word(note: Note) -> bool:
            return word in note.text

        return topics.subscribe(NOTES, where=mentions_the_word)

    @strawberry.subscription
    async def ours(self) -> AsyncIterator[Note]:
        tenant: str = current_principal().claims["tenant"]
        return topics.subscribe(NOTES, where=lambda note: note.tenant == tenant, scope=tenant)


app = FastAPI()
app.include_router(
    GraphQLRouter(
        strawberry.Schema(Query, Mutation, Subscription),
        topics=topics,
        settings=SETTINGS,
        subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
    ),
    prefix="/graphql",
)
