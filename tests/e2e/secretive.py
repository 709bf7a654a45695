"""An application that logs everything, in debug, and whose hook fails on demand."""

import logging
from typing import Any

import strawberry
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Principal, Settings, TopicManager
from gqlnotify.auth import verifier_from

logging.basicConfig(level=logging.DEBUG)
settings = Settings()
verifier = verifier_from(settings)


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"


async def authenticate(token: str | None, connection: Any) -> Principal:
    """Verify the token, or fail during that."""
    assert verifier is not None
    if connection.headers.get("x-fail"):
        raise KeyError("the hook fails")
    principal = verifier(token, connection)
    return principal if isinstance(principal, Principal) else await principal


topics = TopicManager(settings=settings)
app = FastAPI(debug=False)
app.include_router(
    GraphQLRouter(
        strawberry.Schema(Query), topics=topics, settings=settings, authenticate=authenticate
    ),
    prefix="/graphql",
)
logging.info("%r %s %r %r", settings, settings, verifier, app.routes)
