"""The application: the GraphQL schema, and everything that a process needs to serve it.

You can import `schema` without any settings. `app` is built from the environment when it is first
used.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    MULTIPART_SUBSCRIPTION_PROTOCOL,
)

from gqlnotify import Cursor, GraphQLRouter, TopicManager, add_cors, topic_router
from gqlnotify.outbox import Outbox
from schema.api_page import api_page
from schema.chat.store import ChatStore
from schema.chat.types import ROOMS
from schema.commands import publish_notice
from schema.context import Context
from schema.database import Database
from schema.discretion import DiscreetSchema, Discretion
from schema.health import health, metrics_route
from schema.models import OUTBOX
from schema.mutation import Mutation
from schema.query import Query
from schema.rest import rest
from schema.rights import may_use
from schema.settings import TaskSettings
from schema.store import TaskStore
from schema.subscription import Subscription

schema = DiscreetSchema(
    query=Query, mutation=Mutation, subscription=Subscription, extensions=[Discretion]
)

_DESCRIPTION = (
    "Tasks, notifications and a chat, over REST and GraphQL. Send a token in the header "
    "Authorization: Bearer <token>. Events arrive over a WebSocket at /ws/notifications/{topic}, "
    "also those of the topics tasks, rooms.<room> and inbox.<your subject>."
)


def create_app(
    settings: TaskSettings | None = None, *, topics: TopicManager | None = None
) -> FastAPI:
    """Build the task service: GraphQL at `/graphql`, plain WebSockets at `/ws`, and REST.

    Args:
        settings: by default from the environment.
        topics: by default made from the settings.

    Raises:
        RuntimeError: the settings contain no key for tokens. Tasks are never served without one.
        ValueError: a setting is invalid, for example the URL of the database.
    """
    settings = settings or TaskSettings()
    if not settings.names_a_key:
        raise RuntimeError(
            "Set GQLNOTIFY_JWT_SECRET or GQLNOTIFY_JWKS_URL, or start with `gqlnotify serve`"
        )
    topics = topics or TopicManager(settings=settings)
    database = Database(settings.database_url)
    outbox = Outbox(topics, database.sessions, OUTBOX, max_lag=settings.outbox_max_lag)
    store = TaskStore(database, outbox)
    chat = ChatStore(database, outbox)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await database.create()
        try:
            async with outbox:
                yield
        finally:
            await database.close()

    async def context() -> Context:
        return Context(store, chat, topics)

    async def publish(topic: str, data: Any, _author: str) -> Cursor:
        # The author is the viewer's subject, as in every notification.
        return Cursor.parse((await publish_notice(await context(), topic, data)).cursor)

    # As the router's lifespan, not the application's: the router opens the topics before it and
    # closes them after it, and the outbox publishes from its start to its end.
    graphql = GraphQLRouter(
        schema,
        path="/graphql",
        context_getter=context,
        event_context=lambda _scope: Context(store, chat, topics),
        subscription_protocols=(
            GRAPHQL_TRANSPORT_WS_PROTOCOL,
            GRAPHQL_SSE_PROTOCOL,
            MULTIPART_SUBSCRIPTION_PROTOCOL,
        ),
        topics=topics,
        settings=settings,
        may=may_use,
        lifespan=lifespan,
        console=True,
    )
    plain = topic_router(topics, graphql=graphql, publish=publish, presence=[ROOMS])
    # Never None: the settings contain a key, so the router requires tokens.
    assert graphql.revocations is not None
    checks = {
        "broker": topics.check,
        "database": database.check,
        "outbox": outbox.check,
        "revocations": graphql.revocations.ready,
    }
    # FastAPI's own pages load their scripts from other hosts.
    app = FastAPI(
        title="gqlnotify tasks",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
    )
    add_cors(app, settings)
    app.include_router(graphql)
    app.include_router(plain, prefix="/ws")
    app.include_router(rest(context, plain.admit, body_max_bytes=settings.body_max_bytes))
    app.include_router(api_page(app))
    app.include_router(health(**checks))
    app.include_router(metrics_route(outbox.measure))
    app.add_api_route("/", lambda: RedirectResponse("/graphql"), include_in_schema=False)
    return app


def __getattr__(name: str) -> FastAPI:
    # Not built at import: exporting the schema, or a test, would then need a secret in the
    # environment.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    built = globals()["app"] = create_app()
    return built
