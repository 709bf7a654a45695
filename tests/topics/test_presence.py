"""Who is present at a topic, from subscriptions of real clients."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import strawberry
import websockets
from fastapi import FastAPI
from pydantic import SecretStr
from strawberry.scalars import JSON
from websockets.typing import Subprotocol

from gqlnotify import (
    Changed,
    GraphQLRouter,
    Joined,
    Left,
    Present,
    Settings,
    Topic,
    TopicManager,
    topic_router,
)
from gqlnotify.brokers import MemoryBroker
from gqlnotify.brokers.presence import decode_event, presence_topic
from gqlnotify.errors import BadUserInput, BrokerUnavailable, InternalError, Unauthenticated
from gqlnotify.testing import Clock, OperationFailed, Result, Tokens, connect
from gqlnotify.topics.local_member import LocalMember
from gqlnotify.topics.local_presence import BEAT_SECONDS, SAVE_SECONDS
from gqlnotify.topics.subscription import Subscription, UncheckedSubscription
from tests.applications import ALL_PROTOCOLS
from tests.e2e.conftest import SECRET
from tests.plain.support import plain
from tests.servers import running
from tests.waiting import wait_until

ROOMS = Topic("rooms.<name>", str, presence=True)
ROOM = ROOMS(name="red")
PLAIN = Topic("plain", str)
MESSAGES = 'subscription { messages(name: "red") }'
OWN = 'subscription { own(name: "red") }'
GENERATED = 'subscription { generated(name: "red") }'
SET = 'mutation ($state: JSON!) { setState(name: "red", state: $state) }'


class Service:
    """An application with presence, over one broker."""

    def __init__(self, **settings: Any) -> None:
        options = {"jwt_secret": SecretStr(SECRET), "topic_linger": 0, **settings}
        self.settings = Settings(**options)
        self.topics = topics = TopicManager(MemoryBroker(), settings=self.settings)
        self.tokens = Tokens(self.settings)

        @strawberry.type
        class Query:
            @strawberry.field
            async def members(self, name: str) -> list[str]:
                present = await topics.present(ROOMS(name=name))
                return [member.subject for member in present.members]

        @strawberry.type
        class Mutation:
            @strawberry.mutation
            async def set_state(self, name: str, state: JSON) -> bool:
                await topics.set_presence(ROOMS(name=name), state)
                return True

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def messages(self, name: str) -> AsyncIterator[str]:
                return topics.subscribe(ROOMS(name=name))

            @strawberry.subscription
            async def own(self, name: str) -> AsyncIterator[str]:
                return topics.subscribe(ROOMS(name=name), per_viewer=True)

            @strawberry.subscription
            async def generated(self, name: str) -> AsyncIterator[str]:
                async for text in topics.subscribe(ROOMS(name=name)):
                    yield text

            @strawberry.subscription
            async def people(self, name: str) -> AsyncIterator[str]:
                return topics.presence(ROOMS(name=name)).map(lambda each, _: shown(each))

            @strawberry.subscription
            async def internal(self, name: str) -> AsyncIterator[str]:
                return topics.subscribe(Topic(presence_topic(name), object)).map(
                    lambda v, _: str(v)
                )

        schema = strawberry.Schema(Query, Mutation, Subscription)
        router = GraphQLRouter(
            schema,
            topics=topics,
            settings=self.settings,
            subscription_protocols=ALL_PROTOCOLS,
        )
        self.app = FastAPI()
        self.app.include_router(router, prefix="/graphql")
        self.app.include_router(topic_router(topics, graphql=router, presence=[ROOMS]))

    @property
    def kept(self) -> Any:
        """What the broker keeps."""
        return self.topics._broker.presence

    def client(self, subject: str, *, sees: bool = False) -> Any:
        token = self.tokens(subject, subscribe="rooms.*", presence="rooms.*" if sees else ())
        return connect(self.app, token=token)

    async def subjects(self) -> list[str]:
        return sorted(m.subject for m in (await self.topics.present(ROOM)).members)

    async def connections(self) -> dict[str, int]:
        return {m.subject: m.connections for m in (await self.topics.present(ROOM)).members}

    async def states(self) -> dict[str, Any]:
        return {m.subject: m.state for m in (await self.topics.present(ROOM)).members}


def shown(each: Present | Joined | Left | Changed) -> str:
    if isinstance(each, Present):
        return " ".join(["present", *(member.subject for member in each.members)])
    return f"{each.member.subject} {type(each).__name__.lower()}"


@pytest.fixture
def service() -> Service:
    return Service(presence_grace=0.05)


async def until(service: Service, *subjects: str) -> None:
    async def are_there() -> bool:
        return await service.subjects() == list(subjects)

    await wait_until(are_there)


@pytest.mark.parametrize("document", [MESSAGES, OWN, GENERATED])
async def test_a_subscriber_is_present_until_its_subscription_ends(
    service: Service, document: str
) -> None:
    async with service.client("alice") as alice, service.client("bob") as bob:
        messages = await alice.subscribe(document)
        await bob.subscribe(MESSAGES)
        await until(service, "alice", "bob")

        await messages.stop()
        await until(service, "bob")


async def test_several_tabs_and_operations_are_one_subject(service: Service) -> None:
    async with service.client("alice") as first, service.client("alice") as second:
        for client in (first, first, second):
            await client.subscribe(MESSAGES)

        async def has_two_connections() -> bool:
            return await service.connections() == {"alice": 2}

        await wait_until(has_two_connections)
        events = [shown(each) for each in await read_events(service)]
    assert events == ["alice joined"]


async def read_events(service: Service) -> list[Any]:
    """Return all events of presence so far."""
    presence: Topic[Any] = Topic(presence_topic(ROOM.name), object)
    found = list[Any]()
    after = await service.topics.oldest(presence)
    subscription: Subscription[Any] = UncheckedSubscription(service.topics, presence, after=after)
    end = await service.topics.cursor(presence)
    async for event in subscription:
        found.append(decode_event(event))
        if subscription.cursor == end:
            return found
    return found


async def test_a_reconnect_within_the_grace_announces_nothing() -> None:
    service = Service(presence_grace=30)
    stream = service.topics.presence(ROOM)
    async with service.client("anchor") as anchor:
        await anchor.subscribe(MESSAGES)
        await until(service, "anchor")
        assert shown(await anext(stream)) == "present anchor"
        for _ in range(3):
            async with service.client("alice") as alice:
                await alice.subscribe(MESSAGES)
                await until(service, "alice", "anchor")
        async with service.client("bob") as bob:
            await bob.subscribe(MESSAGES)

            assert shown(await anext(stream)) == "alice joined"
            assert shown(await anext(stream)) == "bob joined"
    await stream.aclose()


async def test_a_stream_begins_with_all_and_goes_on_with_each_change(service: Service) -> None:
    async with (
        service.client("alice", sees=True) as alice,
        service.client("bob") as bob,
    ):
        await alice.subscribe(MESSAGES)
        await until(service, "alice")
        people = alice.subscribe(PEOPLE)
        assert (await anext(people)).data == {"people": "present alice"}

        messages = await bob.subscribe(MESSAGES)
        assert (await anext(people)).data == {"people": "bob joined"}
        await bob.execute(SET, {"state": {"typing": True}})
        assert (await anext(people)).data == {"people": "bob changed"}
        await messages.stop()
        assert (await anext(people)).data == {"people": "bob left"}


async def test_a_stream_that_has_missed_changes_begins_again_with_all(service: Service) -> None:
    async with service.client("alice") as alice:
        stream = service.topics.presence(ROOM)
        assert shown(await anext(stream)) == "present"
        waiting = asyncio.ensure_future(anext(stream))
        await alice.subscribe(MESSAGES)
        assert shown(await waiting) == "alice joined"

        # As if Redis had been flushed.
        broker: Any = service.topics._broker
        presence = presence_topic(ROOM.name)
        del broker._histories[presence]
        service.topics.live_topics.refresh(presence)

        assert shown(await anext(stream)) == "present alice"
        await stream.aclose()


PEOPLE = 'subscription { people(name: "red") }'


def told(results: list[Result]) -> list[str]:
    return [result.data["people"] for result in results]


async def test_a_follower_who_comes_back_gets_only_what_it_has_missed(service: Service) -> None:
    async with service.client("alice", sees=True) as alice, service.client("bob") as bob:
        await bob.subscribe(MESSAGES)
        await until(service, "bob")
        people = alice.subscribe(PEOPLE)
        [everybody] = await people.take(1)
        await people.stop()
        await alice.subscribe(MESSAGES)
        await until(service, "alice", "bob")
        await bob.execute(SET, {"state": 1})

        resumed = alice.subscribe(PEOPLE, after=everybody.cursor)

        assert told(await resumed.take(2)) == ["alice joined", "bob changed"]


async def test_followers_share_one_list(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service.client("alice", sees=True) as alice, service.client("bob", sees=True) as bob:
        asked, present = list[str](), service.topics.local_presence.present

        async def count(topic: str) -> Present:
            asked.append(topic)
            return await present(topic)

        monkeypatch.setattr(service.topics.local_presence, "present", count)
        streams = [client.subscribe(PEOPLE) for client in (alice, alice, bob, bob)]
        assert [told(await stream.take(1)) for stream in streams] == [["present"]] * 4
        assert asked == [ROOM.name]
        await bob.subscribe(MESSAGES)
        assert [told(await stream.take(1)) for stream in streams] == [["bob joined"]] * 4


async def test_a_state_replaces_the_one_before_on_any_connection(service: Service) -> None:
    async with service.client("alice") as first, service.client("alice") as second:
        await first.subscribe(MESSAGES)
        await second.subscribe(MESSAGES)
        await first.execute(SET, {"state": {"typing": True}})
        await second.execute(SET, {"state": "away"})

        async def is_away() -> bool:
            return await service.states() == {"alice": "away"}

        await wait_until(is_away)


async def test_of_many_states_few_are_announced(service: Service) -> None:
    async with service.client("alice") as alice:
        await alice.subscribe(MESSAGES)
        await until(service, "alice")
        began = asyncio.get_running_loop().time()
        for number in range(200):
            await alice.execute(SET, {"state": number})

        async def is_last() -> bool:
            return await service.states() == {"alice": 199}

        await wait_until(is_last)
        took = asyncio.get_running_loop().time() - began
        changed = [each for each in await read_events(service) if isinstance(each, Changed)]
    assert len(changed) <= took / SAVE_SECONDS + 2


@pytest.mark.parametrize("state", ["x" * 1023, [0] * 600, "é" * 600])
async def test_a_state_has_at_most_a_kilobyte(service: Service, state: Any) -> None:
    async with service.client("alice") as alice:
        await alice.subscribe(MESSAGES)
        with pytest.raises(OperationFailed, match="at most 1024 bytes") as refused:
            await alice.execute(SET, {"state": state})
        assert refused.value.code == "BAD_USER_INPUT"
        assert (await alice.execute(SET, {"state": "x" * 1022})).data == {"setState": True}


@pytest.mark.parametrize("state", [float("nan"), {1: 2}, {"a", "b"}, (1, 2)])
async def test_a_state_is_a_json_value(service: Service, state: Any) -> None:
    with pytest.raises(BadUserInput, match="JSON value"):
        await service.topics.set_presence(ROOM, state)


async def test_who_may_subscribe_sees_nobody_without_the_right(service: Service) -> None:
    internal = 'subscription { internal(name: "rooms.red") }'
    async with service.client("alice") as alice:
        for document in (PEOPLE, internal):
            with pytest.raises(OperationFailed) as refused:
                await anext(alice.subscribe(document))
            assert refused.value.code == "FORBIDDEN"
        with pytest.raises(OperationFailed, match="no right to see the members") as refused:
            await alice.execute('{ members(name: "red") }')
        assert refused.value.code == "FORBIDDEN"
    async with service.client("bob", sees=True) as bob:
        assert (await bob.execute('{ members(name: "red") }')).data == {"members": []}
        with pytest.raises(OperationFailed) as refused:
            await anext(bob.subscribe(internal))
        assert refused.value.code == "FORBIDDEN"


async def test_a_topic_without_presence_shows_nobody(service: Service) -> None:
    with pytest.raises(InternalError, match="presence=True"):
        await service.topics.present(PLAIN)
    with pytest.raises(InternalError, match="presence=True"):
        service.topics.presence(PLAIN)
    with pytest.raises(BadUserInput, match="family"):
        await service.topics.present(ROOMS)
    with pytest.raises(Unauthenticated):
        await service.topics.set_presence(ROOM, 1)


async def test_code_without_a_connection_is_not_present(service: Service) -> None:
    subscription = service.topics.subscribe(ROOM)
    await subscription.start()

    assert await service.subjects() == []
    assert not service.topics.local_presence._members


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0, application/json"]
)
async def test_a_stream_over_http_is_present(service: Service, accept: str) -> None:
    token = service.tokens("alice", subscribe="rooms.*")
    headers = {"accept": accept, "authorization": f"Bearer {token}"}
    async with (
        running(service.app) as origin,
        httpx.AsyncClient(base_url=f"http://{origin}") as http,
    ):
        body = {"query": MESSAGES}
        async with http.stream("POST", "/graphql", json=body, headers=headers):
            await until(service, "alice")
        await until(service)


async def test_a_plain_socket_is_present(service: Service) -> None:
    token = service.tokens("alice", subscribe="*")
    async with running(service.app) as origin:
        url = f"ws://{origin}/notifications/"
        async with plain(f"{url}rooms.red", token=token) as red, plain(url + "other", token=token):
            await red.ready()
            await until(service, "alice")
        await until(service)
        async with plain(url + presence_topic(ROOM.name), token=token) as client:
            assert (await client.closed()).code == 1008


async def test_an_anonymous_browser_is_one_subject_and_its_session_stays_secret() -> None:
    service = Service(presence_grace=0.05, anonymous_sessions=True, jwt_secret=None)
    protocol = Subprotocol("graphql-transport-ws")
    async with running(service.app) as origin, AsyncExitStack() as stack:
        cookie: str | None = None
        for _ in range(2):
            headers = {} if cookie is None else {"cookie": cookie}
            socket = await stack.enter_async_context(
                websockets.connect(
                    f"ws://{origin}/graphql", subprotocols=[protocol], additional_headers=headers
                )
            )
            assert socket.response is not None
            cookie = cookie or socket.response.headers["set-cookie"].partition(";")[0]
            await socket.send('{"type":"connection_init"}')
            await socket.recv()
            payload = json.dumps({"query": MESSAGES})
            await socket.send(f'{{"id":"1","type":"subscribe","payload":{payload}}}')

        async def has_two_connections() -> bool:
            return list((await service.connections()).values()) == [2]

        await wait_until(has_two_connections)
        [subject] = await service.subjects()
        assert cookie is not None
        assert cookie.partition("=")[2] not in subject
        assert subject.startswith("anonymous-")


async def test_a_broker_that_is_away_delays_no_subscription(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service.client("alice") as alice:
        with monkeypatch.context() as away:
            for name in ("update", "beat"):
                away.setattr(service.kept, name, refuse)
            messages = await alice.subscribe(MESSAGES)
            await service.topics.publish(ROOM, "hi")
            assert (await anext(messages)).data == {"messages": "hi"}
            with pytest.raises(BrokerUnavailable):
                await service.topics.present(ROOM)

        await until(service, "alice")


async def refuse(*_arguments: object) -> None:
    raise BrokerUnavailable("away")


async def test_a_broker_that_has_lost_everything_is_told_again(clock: Clock) -> None:
    service = Service()
    async with service.client("alice") as alice:
        await alice.subscribe(MESSAGES)
        await alice.execute(SET, {"state": "here"})
        await until(service, "alice")
        await clock.advance(SAVE_SECONDS)

        service.kept._members.clear()
        await clock.advance(BEAT_SECONDS)

        await until(service, "alice")
        assert await service.states() == {"alice": "here"}


async def test_a_server_that_closes_lets_its_members_have_their_grace() -> None:
    service = Service(presence_grace=30)
    async with service.client("alice") as alice:
        await alice.subscribe(MESSAGES)
        await until(service, "alice")
        kept = service.kept
    present = await kept.present(presence_topic(ROOM.name), 10)

    assert [(member.subject, member.connections) for member in present.members] == [("alice", 0)]


async def test_nothing_is_left_when_all_have_gone(service: Service) -> None:
    async with service.client("anchor"):
        async with service.client("alice") as alice:
            await alice.subscribe(MESSAGES)
            await alice.execute(SET, {"state": 1})
            await until(service, "alice")
        await until(service)
        await wait_until(lambda: not service.topics.local_presence._members)
        await wait_until(lambda: service.topics.local_presence._work is None)
        assert not service.kept._members


async def test_a_follower_that_goes_on_after_the_end_starts_nothing(service: Service) -> None:
    stream = service.topics.presence(ROOM)
    await anext(stream)
    await service.topics.close()

    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert service.topics.local_presence._work is None
    assert not service.topics.local_presence._members


async def test_a_subscription_that_is_dropped_ends_its_presence(service: Service) -> None:
    async with service.client("anchor"):
        membership = service.topics.local_presence.join(ROOM.name, LocalMember("alice"))
        await until(service, "alice")
        del membership
        await until(service)
