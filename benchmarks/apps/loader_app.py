"""The task service with a field that takes a millisecond, behind a data loader."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import strawberry
from fastapi import FastAPI
from strawberry.dataloader import DataLoader

from benchmarks.apps.probe import with_probe
from gqlnotify import Event, GraphQLRouter, TopicManager
from gqlnotify.outbox import Outbox
from schema.chat.store import ChatStore
from schema.commands import notices
from schema.context import Context
from schema.database import Database
from schema.discretion import DiscreetSchema, Discretion
from schema.models import OUTBOX
from schema.mutation import Mutation
from schema.query import Query
from schema.settings import TaskSettings
from schema.store import TaskStore
from schema.types import Notice, Notification, given


async def load_likes(cursors: Sequence[str]) -> list[int]:
    """Return a number for each, as a database would."""
    await asyncio.sleep(0.001)
    return [len(cursor) for cursor in cursors]


class LoadingContext(Context):
    """The task service's, with a data loader of its own for each event."""

    def __init__(self, store: TaskStore, chat: ChatStore, topics: TopicManager) -> None:
        super().__init__(store, chat, topics)
        self.likes = DataLoader(load_likes)


@strawberry.type
class LikedNotification(Notification):
    """A notification with the field that takes time."""

    @strawberry.field
    async def likes(self, info: strawberry.Info[LoadingContext, None]) -> int:
        """Return how many like it."""
        return await info.context.likes.load(self.cursor)


def _liked(notice: Notice, event: Event) -> LikedNotification:
    return LikedNotification(
        topic=event.topic,
        payload=notice.payload,
        author=notice.author,
        published_at=notice.published_at,
        cursor=str(event.cursor),
    )


@strawberry.type
class Subscription:
    """What can be followed here."""

    @strawberry.subscription
    def notifications(
        self,
        info: strawberry.Info[LoadingContext, None],
        topic: str,
        after: str | None = strawberry.UNSET,
    ) -> AsyncIterator[LikedNotification]:
        """What is published to a topic, and how many like it."""
        return info.context.topics.subscribe(notices(topic), after=given(after)).map(_liked)


def create_app(settings: TaskSettings) -> FastAPI:
    """Build the service from the task service's parts."""
    topics, database = TopicManager(settings=settings), Database(settings.database_url)
    outbox = Outbox(topics, database.sessions, OUTBOX)
    store, chat = TaskStore(database, outbox), ChatStore(database, outbox)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await database.create()
        try:
            async with outbox:
                yield
        finally:
            await database.close()

    async def context() -> LoadingContext:
        return LoadingContext(store, chat, topics)

    app = FastAPI()
    graphql = GraphQLRouter(
        DiscreetSchema(Query, Mutation, Subscription, extensions=[Discretion]),
        path="/graphql",
        context_getter=context,
        event_context=lambda _scope: LoadingContext(store, chat, topics),
        topics=topics,
        settings=settings,
        lifespan=lifespan,
    )
    app.include_router(graphql)
    return with_probe(app)


app = create_app(TaskSettings())
