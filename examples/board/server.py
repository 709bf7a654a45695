"""A task board and a chat: `make example` builds the page and serves it with this API.

Anyone can sign in under any name: a real application would ask for a password.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID

import strawberry
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints
from starlette.requests import HTTPConnection

import store
from gqlnotify import (
    Changed,
    GraphQLRouter,
    Joined,
    Left,
    Member,
    Present,
    Principal,
    TopicManager,
    current_principal,
    errors,
)
from gqlnotify.outbox import Outbox
from store import MESSAGES, TASKS, Message, Status, Task, inbox

PAGE = Path(__file__).parent / "dist"
topics = TopicManager()
outbox = Outbox(topics, store.sessions, store.OUTBOX)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with outbox:
        yield
    store.engine.dispose()


@strawberry.type
class TaskList:
    cursor: str
    items: list[Task]


@strawberry.type
class MessageList:
    cursor: str
    items: list[Message]


@strawberry.type
class Person:
    name: str
    typing: bool


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

    @strawberry.field
    async def private_messages(self) -> MessageList:
        me = current_principal().subject
        cursor = await topics.cursor(inbox(me))  # before the messages are read
        return MessageList(cursor=cursor, items=store.latest_private_messages(me))


@strawberry.type
class Mutation:
    """The store commits a change together with its event, and the outbox publishes it.

    The page chooses the ids. If its line is cut during a mutation, it sends the mutation again: the
    store and the broker ignore the ids that they know.
    """

    @strawberry.mutation
    async def add_task(self, id: UUID, title: str) -> Task:  # noqa: A002
        task = store.add_task(id, _not_empty(title), current_principal().subject)
        outbox.wake()
        return task

    @strawberry.mutation
    async def move_task(self, id: UUID, status: Status) -> Task:  # noqa: A002
        task = store.move_task(id, status, current_principal().subject)
        outbox.wake()
        return task

    @strawberry.mutation
    async def send_message(self, id: UUID, text: str, to: str | None = None) -> Message:  # noqa: A002
        message = store.add_message(id, _not_empty(text), current_principal().subject, to)
        outbox.wake()
        return message

    @strawberry.mutation
    async def set_typing(self, typing: bool) -> bool:
        await topics.set_presence(MESSAGES, {"typing": typing})
        return typing


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def task_changed(self, after: str | None = None) -> AsyncIterator[Task]:
        return topics.subscribe(TASKS, after=after)

    @strawberry.subscription
    async def message_sent(self, after: str | None = None) -> AsyncIterator[Message]:
        return topics.subscribe(MESSAGES, after=after)

    @strawberry.subscription
    async def private_message_sent(self, after: str | None = None) -> AsyncIterator[Message]:
        return topics.subscribe(inbox(current_principal().subject), after=after)

    @strawberry.subscription
    async def people(self) -> AsyncIterator[list[Person]]:
        """Everybody who follows the chat, again after each change."""
        members: dict[str, Member] = {}
        async for news in topics.presence(MESSAGES):
            match news:
                case Present():
                    members = {member.subject: member for member in news.members}
                case Joined() | Changed():
                    members[news.member.subject] = news.member
                case Left():
                    members.pop(news.member.subject, None)
            yield [_person(member) for member in members.values()]


class SignIn(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]


class Session(BaseModel):
    name: str
    token: str


async def authenticate(token: str | None, _connection: HTTPConnection) -> Principal:
    name = store.name_of(token)
    if name is None:
        raise errors.Unauthenticated("Sign in first")
    return Principal(
        subject=name,
        subscribe=(TASKS.name, MESSAGES.name, inbox(name).name),
        presence=(MESSAGES.name,),
    )


def _person(member: Member) -> Person:
    return Person(name=member.subject, typing=member.state == {"typing": True})


def _not_empty(text: str) -> str:
    text = text.strip()
    if not 0 < len(text) <= 500:
        raise errors.BadUserInput("The text must have 1 to 500 characters")
    return text


schema = strawberry.Schema(Query, Mutation, Subscription)
app = FastAPI(lifespan=lifespan)
app.include_router(
    GraphQLRouter(schema, topics=topics, authenticate=authenticate), prefix="/graphql"
)


@app.post("/sign-in")
async def sign_in(who: SignIn) -> Session:
    return Session(name=who.name, token=store.open_session(who.name))


if PAGE.is_dir():
    app.mount("/", StaticFiles(directory=PAGE, html=True))
