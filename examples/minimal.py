"""Notifications in one file: `uvicorn minimal:app`, then open http://127.0.0.1:8000/graphql."""

from collections.abc import AsyncIterator

import strawberry
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Topic, TopicManager


@strawberry.type
class Message:
    author: str
    text: str


MESSAGES = Topic("messages", Message)
topics = TopicManager()


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def say(self, author: str, text: str) -> Message:
        message = Message(author=author, text=text)
        await topics.publish(MESSAGES, message)
        return message


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def messages(self, after: str | None = None) -> AsyncIterator[Message]:
        return topics.subscribe(MESSAGES, after=after)


schema = strawberry.Schema(Query, Mutation, Subscription)
app = FastAPI()
app.include_router(GraphQLRouter(schema, topics=topics), prefix="/graphql")
