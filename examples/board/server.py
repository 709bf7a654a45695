"""A task board and a chat: `make example` builds the page and serves it with this API.

Anyone can sign in under any name: a real application would ask for a password.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated
from uuid import UUID

import strawberry
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints
from starlette.requests import HTTPConnection

import store
from gqlnotify import GraphQLRouter, Principal, Topic, TopicManager, current_principal, errors
from store import Message, Status, Task

PAGE = Path(__file__).parent / "dist"
TASKS = Topic("board.tasks", Task)
MESSAGES = Topic("board.messages", Message)
topics = TopicManager()

# Held while a change is stored and published, so that events have the order of the changes.
changing = asyncio.Lock()


@strawberry.type
class TaskList:
    cursor: str
    items: list[Task]


@strawberry.type
class MessageList:
    cursor: str
    items: list[Message]


@strawberry.type
class Query:
    @strawberry.field
    async def tasks(self) -> TaskList:
        cursor = await topics.cursor(TASKS)  # before the tasks are read
        return TaskList(cursor=cursor, items=store.all_tasks())

    @strawberry.field
    async def messages(self) -> MessageList:
        cursor = await topics.cursor(MESSAGES)  # before the messages are read
        return MessageList(cursor=cursor, items=store.latest_messages())


@strawberry.type
class Mutation:
    """A change is committed first and published afterwards.

    The page chooses the ids. If its line is cut during a mutation, it sends the mutation again: the
    store and `event_id` ignore what they know.
    """

    @strawberry.mutation
    async def add_task(self, id: UUID, title: str) -> Task:  # noqa: A002
        async with changing:
            task = store.add_task(id, _not_empty(title), current_principal().subject)
            await topics.publish(TASKS, task, event_id=f"added-{id}")
        return task

    @strawberry.mutation
    async def move_task(self, id: UUID, status: Status) -> Task:  # noqa: A002
        async with changing:
            task = store.move_task(id, status, current_principal().subject)
            await topics.publish(TASKS, task)
        return task

    @strawberry.mutation
    async def send_message(self, id: UUID, text: str) -> Message:  # noqa: A002
        async with changing:
            message = store.add_message(id, _not_empty(text), current_principal().subject)
            await topics.publish(MESSAGES, message, event_id=f"sent-{id}")
        return message


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def task_changed(self, after: str | None = None) -> AsyncIterator[Task]:
        return topics.subscribe(TASKS, after=after)

    @strawberry.subscription
    async def message_sent(self, after: str | None = None) -> AsyncIterator[Message]:
        return topics.subscribe(MESSAGES, after=after)


class SignIn(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]


class Session(BaseModel):
    name: str
    token: str


async def authenticate(token: str | None, _connection: HTTPConnection) -> Principal:
    name = store.name_of(token)
    if name is None:
        raise errors.Unauthenticated("Sign in first")
    return Principal(subject=name, subscribe=("board.*",), publish=("board.*",))


def _not_empty(text: str) -> str:
    text = text.strip()
    if not 0 < len(text) <= 500:
        raise errors.BadUserInput("The text must have 1 to 500 characters")
    return text


schema = strawberry.Schema(Query, Mutation, Subscription)
app = FastAPI()
app.include_router(
    GraphQLRouter(schema, topics=topics, authenticate=authenticate), prefix="/graphql"
)


@app.post("/sign-in")
async def sign_in(who: SignIn) -> Session:
    return Session(name=who.name, token=store.open_session(who.name))


if PAGE.is_dir():
    app.mount("/", StaticFiles(directory=PAGE, html=True))
