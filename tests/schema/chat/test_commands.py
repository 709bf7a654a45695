"""The chat as clients use it, over GraphQL and over a plain WebSocket."""

import asyncio
from typing import Any

import pytest

from schema.app import create_app
from schema.settings import TaskSettings
from tests.plain.support import plain
from tests.schema.client import Client, Stream, token
from tests.servers import running

pytestmark = pytest.mark.processes


async def say(client: Client, text: str, *, room: str = "garden", **rest: Any) -> dict[str, Any]:
    bearer = rest.pop("bearer", None)
    said = await client.data("say", {"room": room, "text": text, **rest}, bearer=bearer)
    assert isinstance(said, dict)
    return said


async def refused(client: Client, name: str, *, bearer: str | None = None, **given: Any) -> str:
    """Return the code of the error of a query or a mutation."""
    error = await client.error(name, given, bearer=bearer)
    return str(error["extensions"]["code"])


async def code_of(stream: Stream) -> str:
    return str((await stream.error())["extensions"]["code"])


async def test_what_is_said_in_a_room_reaches_who_follows_it(client: Client) -> None:
    room = await client.data("room", {"room": "garden"})
    variables = {"room": "garden", "after": room["eventCursor"]}
    bob = token("bob", subscribe=("rooms.garden",), publish=())
    async with client.stream("messages", variables, bearer=bob) as stream:
        said = [await say(client, text) for text in ("hello", "bye")]
        await say(client, "elsewhere", room="kitchen")
        assert await stream.events(2) == said
    assert {(each["room"], each["author"]) for each in said} == {("garden", "alice")}
    assert (await client.data("room", {"room": "garden"}))["messages"] == said


async def test_a_room_and_the_messages_after_its_cursor_miss_nothing(client: Client) -> None:
    async def talk() -> set[str]:
        return {(await say(client, f"{number}"))["id"] for number in range(20)}

    talking = asyncio.create_task(talk())
    room = await client.data("room", {"room": "garden"})
    known = {each["id"] for each in room["messages"]}
    variables = {"room": "garden", "after": room["eventCursor"]}
    async with client.stream("messages", variables) as stream:
        said = await talking
        while known < said:
            known.add((await stream.event())["id"])
    assert known == said


async def test_any_short_text_is_the_name_of_a_room_of_its_own(client: Client) -> None:
    for name in ("a.b", "*", "rooms.*", "Гарден", "😀 😀", "a/b?c#d", "+", "\n"):
        after = (await client.data("room", {"room": name}))["eventCursor"]
        async with client.stream("messages", {"room": name, "after": after}) as stream:
            await say(client, "elsewhere", room=f"{name}!")
            said = await say(client, "here", room=name)
            assert await stream.event() == said
        assert said["room"] == name


async def test_a_room_whose_name_is_not_possible_is_refused(client: Client) -> None:
    for name in ("", "x" * 61, "x" * 300, "😀" * 60, "a\0b", "\ud800"):
        assert await refused(client, "room", room=name) == "BAD_USER_INPUT"
        assert await refused(client, "say", room=name, text="x") == "BAD_USER_INPUT"
        async with client.stream("messages", {"room": name}) as stream:
            assert await code_of(stream) == "BAD_USER_INPUT"


async def test_a_text_that_is_not_possible_is_refused(client: Client) -> None:
    for text in ("", "x" * 2001, "x" * 900_000, "a\0b", "\ud800"):
        assert await refused(client, "say", text=text, room="garden") == "BAD_USER_INPUT"
        assert await refused(client, "whisper", text=text, to="bob") == "BAD_USER_INPUT"


async def test_a_page_has_at_most_200_messages(client: Client) -> None:
    for last in (-1, 201):
        assert await refused(client, "room", room="garden", last=last) == "BAD_USER_INPUT"
        assert await refused(client, "privateMessages", last=last) == "BAD_USER_INPUT"


async def test_a_room_is_closed_to_those_without_the_right(client: Client) -> None:
    await say(client, "secret")
    stranger = token("eve", subscribe=("rooms.kitchen", "garden"), publish=("rooms.kitchen",))
    assert await refused(client, "room", bearer=stranger, room="garden") == "FORBIDDEN"
    assert await refused(client, "say", bearer=stranger, room="garden", text="x") == "FORBIDDEN"
    assert await refused(client, "say", bearer=stranger, room="*", text="x") == "FORBIDDEN"
    async with client.stream("messages", {"room": "garden"}, bearer=stranger) as stream:
        assert await code_of(stream) == "FORBIDDEN"
    assert await say(client, "allowed", room="kitchen", bearer=stranger)


async def test_a_message_that_is_sent_again_has_the_effect_of_once(client: Client) -> None:
    first = await say(client, "once", eventId="1")
    assert await say(client, "once", eventId="1") == first
    bob = token("bob")
    other = [await say(client, "bob", eventId="1", bearer=bob)]
    other.append(await say(client, "kitchen", eventId="1", room="kitchen"))
    assert len({first["id"], *(each["id"] for each in other)}) == 3


async def test_a_private_message_reaches_both_sides_and_nobody_else(client: Client) -> None:
    people = {name: token(name) for name in ("alice", "bob", "eve")}
    cursors = {
        name: (await client.data("privateMessages", bearer=bearer))["eventCursor"]
        for name, bearer in people.items()
    }
    sent = await client.data("whisper", {"to": "bob", "text": "psst"})
    note = await client.data("whisper", {"to": "eve", "text": "to eve"}, bearer=people["eve"])
    for name, expected in (("alice", sent), ("bob", sent), ("eve", note)):
        after = {"after": cursors[name]}
        async with client.stream("inbox", after, bearer=people[name]) as stream:
            assert await stream.event() == expected
        listed = await client.data("privateMessages", bearer=people[name])
        assert listed["messages"] == [expected]
    assert (sent["author"], sent["to"]) == ("alice", "bob")


async def test_private_messages_need_the_right_to_write_to_the_recipient(client: Client) -> None:
    narrow = token("alice", publish=("inbox.bob",))
    await client.data("whisper", {"to": "bob", "text": "psst"}, bearer=narrow)
    assert await refused(client, "whisper", bearer=narrow, to="carol", text="x") == "FORBIDDEN"
    assert await refused(client, "whisper", bearer=narrow, to="*", text="x") == "FORBIDDEN"


async def test_nobody_publishes_to_the_topics_of_the_chat_by_name(client: Client) -> None:
    for topic in ("rooms.garden", "inbox.bob", "rooms", "inbox"):
        assert await refused(client, "publish", topic=topic, payload=1) == "FORBIDDEN"
        async with client.stream("notifications", {"topic": topic}) as stream:
            assert await code_of(stream) == "FORBIDDEN"


async def test_a_plain_websocket_opens_rooms_and_the_own_inbox(settings: TaskSettings) -> None:
    async with running(create_app(settings)) as origin:
        path = f"ws://{origin}/ws/secure"
        for topic in ("rooms.garden", "inbox.alice"):
            async with plain(f"{path}/{topic}", token=token("alice")) as socket:
                await socket.ready()
        async with plain(f"{path}/inbox.bob", token=token("alice")) as socket:
            assert (await socket.closed()).code == 1008
