"""A chat with tokens: what the tests of the kit connect to."""

from collections.abc import AsyncIterator

import strawberry
from fastapi import FastAPI
from pydantic import SecretStr

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager, current_principal

SETTINGS = Settings(
    broker_url="redis://nowhere.invalid",  # no test may reach it
    jwt_secret=SecretStr("a secret of the chat, 32 bytes or more"),
)


@strawberry.type
class Message:
    author: str
    text: str


MESSAGES = Topic("messages", Message)
ROOMS = Topic("rooms.<room>", str)
topics = TopicManager(settings=SETTINGS)


@strawberry.type
class Query:
    @strawberry.field
    async def me(self) -> str:
        return current_principal().subject


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def say(self, text: str) -> str:
        message = Message(author=current_principal().subject, text=text)
        return str(await topics.publish(MESSAGES, message))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def messages(self, after: str | None = None) -> AsyncIterator[Message]:
        return topics.subscribe(MESSAGES, after=after)

    @strawberry.subscription
    async def room(self, room: str) -> AsyncIterator[str]:
        return topics.subscribe(ROOMS(room=room))

    @strawberry.subscription
    async def countdown(self, start: int) -> AsyncIterator[int]:
        for number in range(start, 0, -1):
            yield number


schema = strawberry.Schema(Query, Mutation, Subscription)
app = FastAPI()
app.include_router(
    GraphQLRouter[None, None](schema, topics=topics, settings=SETTINGS), prefix="/graphql"
)
