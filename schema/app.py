"""The application: the schema, and what a process needs to serve it.

`schema` can be imported anywhere; `app` is built when it is asked for, from the settings in the
environment.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    MULTIPART_SUBSCRIPTION_PROTOCOL,
)

from gqlnotify import GraphQLRouter, TopicManager
from schema.context import Context
from schema.database import Database
from schema.discretion import DiscreetSchema, Discretion
from schema.health import health, sight
from schema.mutation import Mutation
from schema.outbox import Outbox
from schema.query import Query
from schema.settings import TaskSettings
from schema.store import TaskStore
from schema.subscription import Subscription

schema = DiscreetSchema(
    query=Query, mutation=Mutation, subscription=Subscription, extensions=[Discretion]
)


def create_app(
    settings: TaskSettings | None = None, *, topics: TopicManager | None = None
) -> FastAPI:
    """Build the task service, with GraphQL at `/graphql`.

    Raises:
        RuntimeError: the settings name no key for tokens; tasks are never served without one.
    """
    settings = settings or TaskSettings()
    if not settings.names_a_key:
        raise RuntimeError(
            "Set GQLNOTIFY_JWT_SECRET or GQLNOTIFY_JWKS_URL, or start with `gqlnotify serve`"
        )
    topics = topics or TopicManager(settings=settings)
    database = Database(settings.database_url)
    store = TaskStore(database)
    outbox = Outbox(database, topics, max_lag=settings.outbox_max_lag)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await database.create()
        outbox.start()
        try:
            yield
        finally:
            await outbox.close()
            await database.close()

    async def context() -> Context:
        return Context(store, topics, outbox)

    # The router's lifespan, not the application's: the topics outlive it on both ends.
    graphql = GraphQLRouter(
        schema,
        path="/graphql",
        context_getter=context,
        event_context=lambda _scope: Context(store, topics, outbox),
        subscription_protocols=(
            GRAPHQL_TRANSPORT_WS_PROTOCOL,
            GRAPHQL_SSE_PROTOCOL,
            MULTIPART_SUBSCRIPTION_PROTOCOL,
        ),
        topics=topics,
        settings=settings,
        lifespan=lifespan,
    )
    # There is a key for tokens, so there are revocations to know of.
    assert graphql.revocations is not None
    checks = {
        "broker": topics.check,
        "database": database.check,
        "outbox": outbox.check,
        "revocations": graphql.revocations.ready,
    }
    app = FastAPI(title="gqlnotify tasks")
    app.include_router(graphql)
    app.include_router(health(**checks))
    app.include_router(sight(outbox.measure))
    app.add_api_route("/", lambda: RedirectResponse("/graphql"), include_in_schema=False)
    return app


def __getattr__(name: str) -> FastAPI:
    # With a module-level `app`, importing the schema would need a secret in the environment.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    built = globals()["app"] = create_app()
    return built
