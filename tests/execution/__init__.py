"""Each event is executed once for all equal subscriptions: what the tests of that share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from typing import Any

import strawberry
from strawberry.scalars import JSON
from strawberry.types import Info

from gqlnotify import GraphQLRouter, Settings, Subscription, Topic, TopicManager
from gqlnotify.event import is_reserved
from gqlnotify.execution import Group, SharedExecution
from tests.applications import application, bearer, client_of
from tests.e2e.conftest import SECRET
from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.servers import running
from tests.waiting import wait_until

Choose = Callable[[Info], "Subscription[Any] | Awaitable[Subscription[Any]]"]

TOLD = "subscription { notes { told } }"
LATER = "subscription { notes { later } }"
PLAIN = "subscription { notes { text } }"


async def empty_context() -> dict[str, Any]:
    """Return the context of a connection, to which its parameters are added."""
    return {}


class CountingRouter(GraphQLRouter[Any, Any]):
    """Counts the results that it encodes."""

    encoded = 0

    def encode_json(self, data: object) -> str | bytes:
        """See `GraphQLRouter.encode_json`."""
        if isinstance(data, dict) and data.get("type") == "next":
            self.encoded += 1
        return super().encode_json(data)


@strawberry.type
class Query:
    """The queries."""

    @strawberry.field
    def hello(self, word: str = "world") -> str:
        """Return the word."""
        return word

    @strawberry.field
    def nested(self) -> "Query":
        """Return a nested object."""
        return Query()


@strawberry.type
class Mutation:
    """The mutations."""

    @strawberry.mutation
    def echo(self, word: str) -> str:
        """Return the word."""
        return word


class Stage:
    """An application with one topic: a test chooses its subscription and its results.

    `executed` has the text of each note whose resolvers have run.
    """

    def __init__(self, **options: Any) -> None:
        self.topics = TopicManager(settings=Settings(broker_url="memory://", topic_linger=0))
        self.executed: list[str] = []
        self.choose: Choose = lambda _info: self.topics.subscribe(self.notes)
        self.tell: Callable[[str, Info], object] = lambda text, _info: text
        self.tell_later: Callable[[str, Info], Awaitable[object]] = _echo
        self.alter: Callable[[Any], object] = lambda value: value
        self.schema = self._schema(**options)

    @property
    def listens(self) -> bool:
        """Whether the process listens to a topic that is not the library's own."""
        return any(not is_reserved(topic) for topic in self.topics.live_topics.by_name)

    def _schema(self, **options: Any) -> strawberry.Schema:
        stage = self

        @strawberry.type
        class Note:
            text: str

            @strawberry.field
            def told(self, info: Info) -> JSON | None:
                stage.executed.append(self.text)
                return JSON(stage.tell(self.text, info))

            @strawberry.field
            async def later(self, info: Info) -> JSON | None:
                stage.executed.append(self.text)
                return JSON(await stage.tell_later(self.text, info))

            @strawberry.field
            def altered(self, value: JSON) -> JSON:
                stage.executed.append(self.text)
                return JSON(stage.alter(value))

        @strawberry.type
        class Feed:
            @strawberry.subscription
            async def notes(self, info: Info, after: str | None = None) -> AsyncIterator[Note]:
                chosen = stage.choose(info)
                stream: Subscription[Any] = await chosen if isawaitable(chosen) else chosen
                if after is not None:
                    stream.resume(after)
                return stream

        self.notes = Topic("notes", Note)
        self.note = Note
        return strawberry.Schema(Query, Mutation, Feed, **options)

    def router(self, **options: Any) -> CountingRouter:
        """Return a router that asks for tokens."""
        options.setdefault("settings", Settings(jwt_secret=SECRET))  # type: ignore[arg-type]
        options.setdefault("context_getter", empty_context)
        return CountingRouter(self.schema, topics=self.topics, **options)

    async def say(self, *texts: str) -> str:
        """Publish these texts, and return the cursor of the last one."""
        cursors = [await self.topics.publish(self.notes, self.note(text=text)) for text in texts]
        return str(cursors[-1])

    async def now(self) -> str:
        """Return the topic's cursor."""
        return await self.topics.cursor(self.notes)


async def _echo(text: str, _info: Info) -> object:
    return text


def failing(text: str, _info: Info) -> object:
    """Resolve a field, but raise for the text `bad`."""
    if text == "bad":
        raise ValueError("on purpose")
    return text


def executions(router: GraphQLRouter[Any, Any]) -> list[SharedExecution]:
    """Return the executions that are shared, or could be."""
    return list(router._gqlnotify.executions(router.schema)._by_key.values())


def groups(router: GraphQLRouter[Any, Any]) -> list[Group]:
    """Return the groups that have not ended."""
    found = [execution._group for execution in executions(router)]
    return [group for group in found if group is not None and not group.ended]


def sizes(router: GraphQLRouter[Any, Any]) -> list[int]:
    """Return how many members each group has."""
    return sorted(len(group) for group in groups(router))


async def joined(router: GraphQLRouter[Any, Any], members: int) -> None:
    """Return once the groups have this many members in total."""
    await wait_until(lambda: sum(sizes(router)) == members)


@asynccontextmanager
async def audience(
    router: GraphQLRouter[Any, Any], *names: str, **options: Any
) -> AsyncIterator[list[Socket]]:
    """Open a socket for each of these subjects, initialised with its token."""
    async with running(application(router)) as origin, AsyncExitStack() as stack:
        yield [await enter(stack, origin, name, **options) for name in names]


@asynccontextmanager
async def both_ways(router: GraphQLRouter[Any, Any]) -> AsyncIterator[tuple[Any, Socket]]:
    """Serve the router; yield a client over HTTP and a socket, both with a token."""
    async with (
        running(application(router)) as origin,
        client_of(origin, headers=bearer()) as client,
        open_socket(f"ws://{origin}") as socket,
    ):
        await socket.init({"name": "alice", "token": token()})
        yield client, socket


async def enter(stack: AsyncExitStack, origin: str, name: str, **options: Any) -> Socket:
    """Open one socket that lives as long as `stack`."""
    socket = await stack.enter_async_context(open_socket(f"ws://{origin}"))
    await socket.init({"name": name, "token": token(name, **options)})
    return socket


async def subscribe_all(
    router: GraphQLRouter[Any, Any], sockets: Sequence[Socket], document: str, **payload: Any
) -> None:
    """Subscribe the sockets one after the other, and wait until each has joined a group."""
    before = sum(sizes(router))
    for number, socket in enumerate(sockets, 1):
        await socket.subscribe("1", document, **payload)
        await joined(router, before + number)


async def told(sockets: Sequence[Socket], field: str = "told") -> list[Any]:
    """Return the value of `field` in the next result of each socket."""
    results = [await socket.next("1") for socket in sockets]
    return [result["data"]["notes"][field] for result in results]


async def codes(sockets: Sequence[Socket]) -> list[Any]:
    """Return the code of the first error in the next result of each socket."""
    results = [await socket.next("1") for socket in sockets]
    return [result["errors"][0]["extensions"]["code"] for result in results]


def name_of(info: Info) -> str:
    """Return the name that the connection has given."""
    return str(info.context["connection_params"]["name"])
