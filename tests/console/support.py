"""An application with a console, and tokens for it."""

from collections.abc import AsyncIterator
from typing import Any

import strawberry
from fastapi import FastAPI
from pydantic import SecretStr

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager
from gqlnotify.testing.tokens import Tokens

SETTINGS = Settings(jwt_secret=SecretStr("a secret for the tests of the console"))
NUMBERS = Topic("numbers", int)
ROOM = Topic("room", int, presence=True)
API = "/console/graphql"


@strawberry.type
class Number:
    value: int

    @strawberry.field
    async def double(self) -> int:
        return 2 * self.value


@strawberry.type
class Query:
    @strawberry.field
    def ready(self) -> bool:
        return True


def application(topics: TopicManager | None = None, **options: Any) -> FastAPI:
    """Return an application with numbers on a topic, and a console."""
    manager = topics or TopicManager(settings=SETTINGS)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def numbers(self) -> AsyncIterator[int]:
            return manager.subscribe(NUMBERS)

        @strawberry.subscription
        async def doubled(self) -> AsyncIterator[Number]:
            return manager.subscribe(NUMBERS).map(lambda value, _event: Number(value=value))

        @strawberry.subscription
        async def room(self) -> AsyncIterator[int]:
            return manager.subscribe(ROOM)

    app = FastAPI()
    router = GraphQLRouter[Any, Any](
        strawberry.Schema(Query, subscription=Subscription),
        path="/graphql",
        topics=manager,
        **{"settings": SETTINGS, "console": True, **options},
    )
    app.include_router(router)
    return app


def token(subject: str = "operator", **rights: Any) -> str:
    """Return a token; without rights, it has all of them."""
    everything = {"admin": "*", "subscribe": "*", "publish": "*", "presence": "*"}
    return Tokens(SETTINGS)(subject, **(rights or everything))
