"""An application with numbers on a topic, over each transport."""

from collections.abc import AsyncIterator
from typing import Any

import strawberry
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    MULTIPART_SUBSCRIPTION_PROTOCOL,
)

from gqlnotify import Cursor, GraphQLRouter, Settings, Topic, TopicManager
from tests.applications import application

TOPIC = Topic("numbers-app", int)
UNCHECKED = 13


@strawberry.type
class Number:
    value: int

    @strawberry.field
    def checked(self) -> int | None:
        """Return the value, and fail for one of them."""
        if self.value == UNCHECKED:
            raise ValueError("on purpose")
        return self.value


class NumbersApp:
    """One instance is one start of the application: with `memory://` its history is its own."""

    def __init__(self, broker_url: str = "memory://", **settings: Any) -> None:
        topics = self.topics = TopicManager(settings=Settings(broker_url=broker_url))

        @strawberry.type
        class Query:
            @strawberry.field
            async def cursor(self) -> str:
                return await topics.cursor(TOPIC)

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def numbers(self) -> AsyncIterator[Number]:
                return topics.subscribe(TOPIC).map(lambda value, _: Number(value=value))

        router = GraphQLRouter[Any, Any](
            strawberry.Schema(Query, subscription=Subscription),
            topics=topics,
            settings=Settings(**settings),
            subscription_protocols=(
                GRAPHQL_TRANSPORT_WS_PROTOCOL,
                GRAPHQL_SSE_PROTOCOL,
                MULTIPART_SUBSCRIPTION_PROTOCOL,
            ),
        )
        self.asgi = application(router)

    async def publish(self, *values: int) -> list[Cursor]:
        return [await self.topics.publish(TOPIC, value) for value in values]
