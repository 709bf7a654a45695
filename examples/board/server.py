"""A task board and a chat: `make example` builds the page and serves it with this API.

Anyone can sign in under any name: a real application would ask for a password.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from operator import attrgetter
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
    Change,
    Changed,
    Event,
    GraphQLRouter,
    Joined,
    Left,
    Member,
    Present,
    Principal,
    Snapshot,
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
class LiveTasks:
    """Either all tasks, or one that was added or has changed."""

    snapshot: list[Task] | None = None
    change: Task | None = None


@strawberry.type
class LiveMessages:
    """Either the latest messages, or a new one."""

    snapshot: list[Message] | None = None
    change: Message | None = None


@strawberry.type
class Person:
    name: str
    typing: bool


@strawberry.type
class Query:
    @strawberry.field
    def me(self) -> str:
        return current_principal().subject


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
    """Each list is live: all of it, then its changes, and all of it again after a gap."""

    @strawberry.subscription
    async def tasks(self) -> AsyncIterator[LiveTasks]:
        return topics.live(TASKS, load=store.all_tasks, key=attrgetter("id")).map(_live_tasks)

    @strawberry.subscription
    async def messages(self) -> AsyncIterator[LiveMessages]:
        load = store.latest_messages
        return topics.live(MESSAGES, load=load, key=attrgetter("id")).map(_live_messages)

    @strawberry.subscription
    async def private_messages(self) -> AsyncIterator[LiveMessages]:
        me = current_principal().subject
        load = partial(store.latest_private_messages, me)
        return topics.live(inbox(me), load=load, key=attrgetter("id")).map(_live_messages)

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


def _live_tasks(each: Snapshot[Task] | Change[Task], _event: Event) -> LiveTasks:
    if isinstance(each, Snapshot):
        return LiveTasks(snapshot=each.items)
    return LiveTasks(change=each.value)


def _live_messages(each: Snapshot[Message] | Change[Message], _event: Event) -> LiveMessages:
    if isinstance(each, Snapshot):
        return LiveMessages(snapshot=each.items)
    return LiveMessages(change=each.value)


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
