"""An application with one topic."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import strawberry
from strawberry.permission import BasePermission
from strawberry.types import Info

from gqlnotify import (
    Cursor,
    GraphQLRouter,
    Settings,
    Topic,
    TopicManager,
    authorize,
    current_principal,
)
from gqlnotify import Subscription as Stream
from tests.e2e.conftest import SECRET
from tests.e2e.raw import Socket
from tests.e2e.tokens import token


@strawberry.type
class Message:
    text: str


MESSAGES = Topic("messages", Message)


class Allowed(BasePermission):
    message = "not you"

    def has_permission(self, source: Any, info: Info, **kwargs: Any) -> bool:
        return bool(info.context["connection_params"].get("allowed"))


class MessageApp:
    """An application with one topic."""

    def __init__(self, **options: Any) -> None:  # noqa: C901 - a schema, whose fields need `topics`
        kept: list[Stream[str]] = []
        self.kept = kept
        """The streams that the application can close."""
        topics = self.topics = TopicManager(
            settings=Settings(broker_url="memory://", topic_linger=0, ack_interval=0.02)
        )

        @strawberry.type
        class Query:
            @strawberry.field
            def me(self) -> str:
                return current_principal().subject

            @strawberry.field
            async def cursor(self) -> str:
                return await topics.cursor(MESSAGES)

            @strawberry.field
            async def oldest(self) -> str:
                return await topics.oldest(MESSAGES)

        @strawberry.type
        class Mutation:
            @strawberry.mutation
            async def say(self, text: str) -> str:
                return await topics.publish(MESSAGES, Message(text=text))

            @strawberry.mutation
            async def say_later(self, info: Info, text: str) -> bool:
                async def publish() -> None:
                    await topics.publish(MESSAGES, Message(text=text))

                info.context["background_tasks"].add_task(publish)
                return True

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def messages(self, after: str | None = None) -> AsyncIterator[Message]:
                return topics.subscribe(MESSAGES, after=after)

            @strawberry.subscription
            def at_once(self) -> AsyncIterator[Message]:
                return topics.subscribe(MESSAGES)

            @strawberry.subscription(permission_classes=[Allowed])  # type: ignore[untyped-decorator]
            async def guarded(self) -> AsyncIterator[Message]:
                return topics.subscribe(MESSAGES)

            @strawberry.subscription
            async def wrapped(self) -> AsyncIterator[str]:
                async for message in topics.subscribe(MESSAGES):
                    yield message.text.upper()

            @strawberry.subscription
            async def texts(self) -> AsyncIterator[str]:
                return topics.subscribe(MESSAGES).map(
                    lambda message, event: f"{event.cursor.seq} {message.text}"
                )

            @strawberry.subscription
            async def mine(self) -> AsyncIterator[str]:
                return topics.subscribe(MESSAGES, per_viewer=True).map(
                    lambda message, event: f"{current_principal().subject}: {message.text}"
                )

            @strawberry.subscription
            async def kept(self) -> AsyncIterator[str]:
                stream = topics.subscribe(MESSAGES, per_viewer=True)
                kept.append(stream.map(lambda message, event: message.text))
                return kept[-1]

            @strawberry.subscription
            async def none(self) -> AsyncIterator[Message]:
                return topics.subscribe(MESSAGES, where=lambda message: False)

            @strawberry.subscription
            async def asked_first(self) -> AsyncIterator[Message]:
                await authorize("subscribe", "elsewhere")
                return topics.subscribe(MESSAGES)

        self.schema = strawberry.Schema(Query, Mutation, Subscription, **options)

    async def say(self, text: str) -> Cursor:
        return await self.topics.publish(MESSAGES, Message(text=text))

    def router(self, **options: Any) -> GraphQLRouter[Any, Any]:
        return GraphQLRouter(self.schema, topics=self.topics, **options)

    def locked(self, **options: Any) -> GraphQLRouter[Any, Any]:
        settings = Settings(jwt_secret=SECRET, ack_interval=0.02)  # type: ignore[arg-type]
        return self.router(settings=settings, **options)


MESSAGE_TEXTS = "subscription { messages { text } }"


async def subscribed(socket: Socket, document: str = MESSAGE_TEXTS, **payload: Any) -> None:
    await socket.init()
    await socket.subscribe("1", document, **payload)


async def next_message(message_app: MessageApp, socket: Socket, text: str) -> Any:
    """Publish until a result arrives: a client can't see when its subscription has started."""
    receiving = asyncio.create_task(socket.next("1"))
    while not receiving.done():
        await message_app.say(text)
        await asyncio.wait([receiving], timeout=0.02)
    return await receiving


async def assert_forbidden(socket: Socket, document: str, **claims: Any) -> None:
    """Expect that a token with these claims may not subscribe with this document."""
    await socket.init({"token": token(**claims)})
    await socket.subscribe("1", document)
    [error] = await socket.error("1")
    assert error["extensions"]["code"] == "FORBIDDEN"
