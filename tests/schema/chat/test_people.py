"""Who is in a room, and who types."""

from typing import Any

import pytest

from schema.app import create_app
from schema.settings import TaskSettings
from tests.applications import client_of
from tests.plain.support import plain
from tests.schema.client import Client, Stream, token
from tests.schema.conftest import until
from tests.servers import running

pytestmark = pytest.mark.processes

ROOM = {"room": "the garden"}


@pytest.fixture
def settings(settings: TaskSettings) -> TaskSettings:
    return settings.model_copy(update={"presence_grace": 0.1})


async def snapshot(stream: Stream) -> list[str]:
    """Return the subjects that a stream of people begins with."""
    event = await stream.event()
    assert event["change"] is None
    members = [each["subject"] for each in event["snapshot"]["members"]]
    assert event["snapshot"]["count"] == len(members)
    return members


async def change(stream: Stream) -> tuple[str, str, bool]:
    event = await stream.event()
    assert event["snapshot"] is None, event
    person = event["change"]["person"]
    return event["change"]["kind"], person["subject"], person["typing"]


async def people(client: Client, **rest: Any) -> list[tuple[str, bool]]:
    room = await client.data("room", {**ROOM, "people": True}, **rest)
    return [(each["subject"], each["typing"]) for each in room["people"]["members"]]


async def are_there(client: Client, *expected: tuple[str, bool]) -> bool:
    return await people(client) == [*expected]


async def set_typing(client: Client, typing: bool, **rest: Any) -> None:
    assert await client.data("setTyping", {**ROOM, "typing": typing}, **rest) is typing


async def test_people_join_type_and_leave(client: Client) -> None:
    bob = token("bob")
    async with client.stream("people", ROOM, bearer=bob) as stream:
        assert await snapshot(stream) == []
        async with client.stream("messages", ROOM):
            assert await change(stream) == ("JOINED", "alice", False)
            await set_typing(client, True)
            assert await change(stream) == ("CHANGED", "alice", True)
            async with client.stream("people", ROOM, bearer=bob) as another:
                # Those who come together share a list, and get the changes since then.
                there = await snapshot(another)
                while "alice" not in there:
                    there.append((await change(another))[1])
            assert await people(client) == [("alice", True)]
            await set_typing(client, False)
            assert await change(stream) == ("CHANGED", "alice", False)
        assert await change(stream) == ("LEFT", "alice", False)
    assert await people(client) == []


async def test_a_person_with_two_windows_joins_once_and_leaves_with_the_last(
    client: Client,
) -> None:
    async with client.stream("people", ROOM, bearer=token("bob")) as stream:
        await snapshot(stream)
        async with client.stream("messages", ROOM):
            assert await change(stream) == ("JOINED", "alice", False)
            cursor = (await client.data("room", ROOM))["eventCursor"]
            async with client.stream("messages", {**ROOM, "after": cursor}) as second:
                await client.data("say", {**ROOM, "text": "both windows are open"})
                await second.event()
            # Longer than the grace of a person whose only window was closed.
            async with client.stream("messages", ROOM, bearer=token("carol")):
                assert await change(stream) == ("JOINED", "carol", False)
            assert await change(stream) == ("LEFT", "carol", False)
        assert await change(stream) == ("LEFT", "alice", False)


async def test_the_people_of_a_room_need_a_right_of_their_own(client: Client) -> None:
    narrow = token("bob", presence=("rooms.kitchen", "the garden"))
    assert (await client.data("room", ROOM, bearer=narrow))["messages"] == []
    error = await client.error("room", {**ROOM, "people": True}, bearer=narrow)
    assert error["extensions"]["code"] == "FORBIDDEN"
    async with client.stream("people", ROOM, bearer=narrow) as stream:
        assert (await stream.error())["extensions"]["code"] == "FORBIDDEN"
    only_people = token("bob", subscribe=(), presence=("rooms.the+20garden",))
    async with client.stream("people", ROOM, bearer=only_people) as stream:
        assert await snapshot(stream) == []


async def test_who_is_not_in_a_room_does_not_type_there(client: Client) -> None:
    stranger = token("eve", subscribe=())
    error = await client.error("setTyping", {**ROOM, "typing": True}, bearer=stranger)
    assert error["extensions"]["code"] == "FORBIDDEN"
    async with client.stream("messages", ROOM, bearer=token("bob")):
        await set_typing(client, True, bearer=token("eve"))
        await until(lambda: are_there(client, ("bob", False)))


async def test_a_room_that_is_not_possible_has_no_people(client: Client) -> None:
    for name in ("", "x" * 300, "😀" * 60):
        async with client.stream("people", {"room": name}) as stream:
            assert (await stream.error())["extensions"]["code"] == "BAD_USER_INPUT"
        error = await client.error("setTyping", {"room": name, "typing": True})
        assert error["extensions"]["code"] == "BAD_USER_INPUT"


async def test_who_types_very_often_is_announced_rarely(client: Client) -> None:
    toggles = " ".join(
        f'_{number}: setTyping(room: "the garden", typing: {str(number % 2 == 1).lower()})'
        for number in range(20)
    )
    async with (
        client.stream("people", ROOM, bearer=token("bob")) as stream,
        client.stream("messages", ROOM),
    ):
        await snapshot(stream)
        assert await change(stream) == ("JOINED", "alice", False)
        for _ in range(10):
            assert "errors" not in await client.post(f"mutation {{ {toggles} }}")
        async with client.stream("messages", ROOM, bearer=token("carol")):
            changes = []
            while ("JOINED", "carol", False) not in changes:
                changes.append(await change(stream))
    assert len(changes) <= 1 + 10


async def test_who_follows_a_room_over_a_plain_websocket_is_there_too(
    settings: TaskSettings,
) -> None:
    async with (
        running(create_app(settings)) as origin,
        plain(f"ws://{origin}/ws/secure/rooms.the+20garden", token=token("bob")) as socket,
        client_of(origin, headers={"authorization": f"Bearer {token()}"}) as http,
    ):
        await socket.ready()
        query = {"query": '{ room(room: "the garden") { people { members { subject } } } }'}

        async def is_there() -> bool:
            answer = (await http.post("/graphql", json=query)).json()
            return bool(answer["data"]["room"]["people"]["members"] == [{"subject": "bob"}])

        await until(is_there)
