"""Small applications, clean ones and ones with a fault that people have reported elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import strawberry
from fastapi import FastAPI
from strawberry.dataloader import DataLoader

from gqlnotify import GraphQLRouter, Topic, TopicManager, current_principal
from gqlnotify.testing import Operation
from tests.testing.app import SETTINGS

PAGE = 25


@strawberry.type
class Message:
    number: int
    text: str


MESSAGES = Topic("messages", Message)


@strawberry.type
class Query:
    hello: str = "world"


@dataclass
class Chat:
    """The parts that the applications share. Each application has its own."""

    topics: TopicManager = field(default_factory=lambda: TopicManager(settings=SETTINGS))
    log: list[Message] = field(default_factory=list)

    async def say(self, number: int) -> None:
        message = Message(number=number, text=f"message {number}")
        self.log.append(message)
        await self.topics.publish(MESSAGES, message)

    def app(self, subscription: type, **options: Any) -> FastAPI:
        app = FastAPI()
        router = GraphQLRouter[Any, None](
            strawberry.Schema(Query, None, subscription),
            topics=self.topics,
            settings=SETTINGS,
            **options,
        )
        app.include_router(router, prefix="/graphql")
        return app

    def page_after(self, number: int) -> list[Message]:
        return [message for message in self.log if message.number > number][:PAGE]

    @property
    def newest(self) -> int:
        return self.log[-1].number if self.log else 0


App = tuple[FastAPI, Sequence[Operation]]


def by_topic(chat: Chat, fields: str = "number text") -> Operation:
    document = f"subscription {{ messages {{ {fields} }} }}"
    return Operation(document=document, cause=chat.say)


def by_number(chat: Chat) -> Operation:
    return Operation(
        document="subscription ($after: Int) { messages(after: $after) { number text } }",
        cause=chat.say,
        resume=lambda data: {"after": data["messages"]["number"]},
    )


def clean() -> App:
    chat = Chat()

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self) -> AsyncIterator[Message]:
            return chat.topics.subscribe(MESSAGES)

    return chat.app(Subscription), [by_topic(chat)]


def clean_for_each_viewer() -> App:
    """It also has a subscription with a filter for each viewer."""
    chat = Chat()

    @strawberry.type
    class Letter:
        to: str
        text: str

        @strawberry.field
        def reader(self) -> str:
            return current_principal().subject

    letters = Topic("letters", Letter)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def letters(self) -> AsyncIterator[Letter]:
            me = current_principal().subject
            return chat.topics.subscribe(
                letters, where=lambda letter: letter.to in {me, "all"}, per_viewer=True
            )

    async def write(number: int) -> None:
        to = ["ann", "bob", "all"][number % 3]
        await chat.topics.publish(letters, Letter(to=to, text=f"letter {number}"))

    operation = Operation(
        document="subscription { letters { to text reader } }",
        cause=write,
        owner=lambda data: None if data["letters"]["to"] == "all" else data["letters"]["to"],
    )
    return chat.app(Subscription), [operation]


def clean_with_its_own_cursors() -> App:
    chat = Chat()

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self, after: int | None = None) -> AsyncGenerator[Message, None]:
            last = chat.newest if after is None else after
            live = chat.topics.subscribe(MESSAGES)
            await live.start()
            while page := chat.page_after(last):
                for message in page:
                    yield message
                    last = message.number
            async for message in live:
                if message.number > last:
                    yield message

    return chat.app(Subscription), [by_number(chat)]


def clean_with_latest_by() -> App:
    """It leaves out replaced events for clients that lag, and all subscriptions share a task."""
    chat = Chat()
    latest = Topic("latest", Message, latest_by=lambda message: message.number % 2)
    shared: list[asyncio.Task[None]] = []

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def latest(self) -> AsyncIterator[Message]:
            if not shared:
                shared.append(asyncio.create_task(asyncio.sleep(3600)))
            return chat.topics.subscribe(latest)

    async def say(number: int) -> None:
        message = Message(number=number, text=f"message {number}")
        await chat.topics.publish(latest, message)

    document = "subscription { latest { number text } }"
    return chat.app(Subscription), [Operation(document=document, cause=say)]


def cursor_that_skips() -> App:
    """It reads one page after a cursor, and goes on with live events, full or not."""
    chat = Chat()

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self, after: int | None = None) -> AsyncGenerator[Message, None]:
            live = chat.topics.subscribe(MESSAGES)
            await live.start()
            if after is not None:
                for message in chat.page_after(after):
                    yield message
            async for message in live:
                yield message

    return chat.app(Subscription), [by_number(chat)]


def generator_that_leaks() -> App:
    """Each subscription starts a task that nothing ends."""
    chat = Chat()
    running: list[asyncio.Task[None]] = []

    async def pump(queue: "asyncio.Queue[Message]") -> None:
        async for message in chat.topics.subscribe(MESSAGES):
            queue.put_nowait(message)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self, after: int | None = None) -> AsyncGenerator[Message, None]:
            last = chat.newest if after is None else after
            queue: asyncio.Queue[Message] = asyncio.Queue()
            running.append(asyncio.create_task(pump(queue)))
            await asyncio.sleep(0)
            while page := chat.page_after(last):
                for message in page:
                    yield message
                    last = message.number
            while True:
                message = await queue.get()
                if message.number > last:
                    yield message

    return chat.app(Subscription), [by_number(chat)]


def viewer_in_a_shared_loader() -> App:
    """One data loader for the whole application, whose function looks at the viewer."""
    chat = Chat()

    async def load(numbers: list[int]) -> list[str]:
        return [f"{number} for {current_principal().subject}" for number in numbers]

    loader: DataLoader[int, str] = DataLoader(load_fn=load)

    @strawberry.type
    class Seen:
        number: int

        @strawberry.field
        async def receipt(self) -> str:
            return await loader.load(self.number)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self) -> AsyncIterator[Seen]:
            stream = chat.topics.subscribe(MESSAGES, per_viewer=True)
            return stream.map(lambda message, _event: Seen(number=message.number))

    return chat.app(Subscription), [by_topic(chat, "number receipt")]


class SharedPump:
    """Passes the events on to all subscriptions. The first one that leaves ends it for all."""

    def __init__(self, topics: TopicManager) -> None:
        self._topics = topics
        self._listeners: set[asyncio.Queue[Message]] = set()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def listening(self) -> Iterator["asyncio.Queue[Message]"]:
        queue: asyncio.Queue[Message] = asyncio.Queue()
        self._listeners.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield queue
        finally:
            self._listeners.discard(queue)
            task, self._task = self._task, None
            if task is not None:
                task.cancel()

    async def _run(self) -> None:
        async for message in self._topics.subscribe(MESSAGES):
            for queue in self._listeners:
                queue.put_nowait(message)


def discount_in_a_shared_cache() -> App:
    """A field that depends on the viewer's role, in a cache whose key lacks it."""
    chat = Chat()
    cache: dict[int, int] = {}

    @strawberry.type
    class Offer:
        number: int

        @strawberry.field
        async def discount(self) -> int:
            await asyncio.sleep(0)
            return cache.setdefault(self.number, 10 if current_principal().subject == "ann" else 0)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self) -> AsyncIterator[Offer]:
            stream = chat.topics.subscribe(MESSAGES, per_viewer=True)
            return stream.map(lambda message, _event: Offer(number=message.number))

    return chat.app(Subscription), [by_topic(chat, "number discount")]


def complete_that_mutes_siblings() -> App:
    chat = Chat()
    pump = SharedPump(chat.topics)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self, after: int | None = None) -> AsyncGenerator[Message, None]:
            last = chat.newest if after is None else after
            with pump.listening() as queue:
                while page := chat.page_after(last):
                    for message in page:
                        yield message
                        last = message.number
                while message := await queue.get():
                    if message.number > last:
                        yield message

    return chat.app(Subscription), [by_number(chat)]


def queue_that_stays_in_a_list() -> App:
    chat = Chat()
    listeners: list[asyncio.Queue[Message]] = []

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self, after: int | None = None) -> AsyncGenerator[Message, None]:
            last = chat.newest if after is None else after
            queue: asyncio.Queue[Message] = asyncio.Queue()
            listeners.append(queue)
            while page := chat.page_after(last):
                for message in page:
                    yield message
                    last = message.number
            while message := await queue.get():
                if message.number > last:
                    yield message

    async def say(number: int) -> None:
        await chat.say(number)
        for queue in listeners:
            queue.put_nowait(chat.log[-1])

    return chat.app(Subscription), [replace(by_number(chat), cause=say)]


def generator_without_a_cursor() -> App:
    chat = Chat()

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self) -> AsyncGenerator[Message, None]:
            async for message in chat.topics.subscribe(MESSAGES):
                yield message

    return chat.app(Subscription), [by_topic(chat)]


def session_around_the_loop() -> App:
    """Each subscription holds a session of the pool as long as it runs."""
    chat = Chat()
    pool = asyncio.Semaphore(9)

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self, after: int | None = None) -> AsyncGenerator[Message, None]:
            last = chat.newest if after is None else after
            live = chat.topics.subscribe(MESSAGES)
            await live.start()
            async with pool:
                while page := chat.page_after(last):
                    for message in page:
                        yield message
                        last = message.number
                async for message in live:
                    if message.number > last:
                        yield message

    return chat.app(Subscription), [by_number(chat)]


def session_held_per_socket() -> App:
    """Each socket takes a session from the pool, and returns it when it closes."""
    chat = Chat()
    pool = asyncio.Semaphore(9)

    async def context() -> AsyncIterator[dict[str, Any]]:
        async with pool:
            yield {"session": object()}

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def messages(self) -> AsyncIterator[Message]:
            return chat.topics.subscribe(MESSAGES)

    return chat.app(Subscription, context_getter=context), [by_topic(chat)]


Build = Callable[[], App]
CLEAN: list[Build] = [
    clean,
    clean_for_each_viewer,
    clean_with_its_own_cursors,
    clean_with_latest_by,
]
