import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from gqlnotify.outbox import Outbox
from schema.chat.store import ChatStore
from schema.chat.types import Message, PrivateMessage, inbox_topic, room_topic
from schema.database import Database
from schema.models import OUTBOX


@pytest.fixture
def chat(database: Database, outbox: Outbox) -> ChatStore:
    return ChatStore(database, outbox, kept=3)


async def say(chat: ChatStore, text: str, *, room: str = "garden", **rest: Any) -> Message:
    message = {"id": str(uuid4()), "author": "alice", "room": room, "text": text, **rest}
    return await chat.say(**message)


async def whisper(chat: ChatStore, text: str, **rest: Any) -> PrivateMessage:
    message = {"id": str(uuid4()), "author": "alice", "to": "bob", "text": text, **rest}
    return await chat.whisper(**message)


async def recorded(database: Database) -> list[tuple[str, str]]:
    """Return the topics and payloads of the events."""
    async with database.reading() as session:
        rows = await session.execute(select(OUTBOX.c.topic, OUTBOX.c.payload).order_by(OUTBOX.c.id))
        return [(topic, payload) for topic, payload in rows]


async def texts(chat: ChatStore, room: str = "garden", **page: Any) -> list[str]:
    return [each.text for each in await chat.messages(room, **{"last": 10, **page})]


async def private_texts(chat: ChatStore, subject: str, **page: Any) -> list[str]:
    found = await chat.private_messages(subject, **{"last": 10, **page})
    return [each.text for each in found]


async def test_a_message_reads_back_as_it_was_said_and_is_an_event(
    chat: ChatStore, database: Database
) -> None:
    said = await say(chat, "Ä \U0001f600 \x01'\"\\", room="a.b *")
    assert await chat.messages("a.b *", last=10) == [said]
    [(topic, payload)] = await recorded(database)
    assert topic == "rooms.a+2Eb+20+2A"
    assert room_topic("a.b *").decode(payload.encode()) == said


async def test_a_private_message_is_an_event_for_both_sides(
    chat: ChatStore, database: Database
) -> None:
    sent = await whisper(chat, "psst")
    assert [await chat.private_messages(each, last=10) for each in ("alice", "bob", "eve")] == [
        [sent],
        [sent],
        [],
    ]
    events = await recorded(database)
    assert [topic for topic, _ in events] == ["inbox.alice", "inbox.bob"]
    assert {inbox_topic("bob").decode(payload.encode()).id for _, payload in events} == {sent.id}


async def test_a_message_to_oneself_is_one_event(chat: ChatStore, database: Database) -> None:
    await whisper(chat, "note", to="alice")
    assert await private_texts(chat, "alice") == ["note"]
    assert len(await recorded(database)) == 1


async def test_a_message_that_is_sent_again_is_the_first_one(
    chat: ChatStore, database: Database
) -> None:
    first, again = await asyncio.gather(
        say(chat, "once", id="1"), say(chat, "once", id="1", room="kitchen")
    )
    assert first == again
    private = [await whisper(chat, text, id="1") for text in ("once", "twice")]
    assert private[0] == private[1]
    assert len(await recorded(database)) == 1 + 2


async def test_a_room_keeps_its_newest_messages(chat: ChatStore) -> None:
    await say(chat, "elsewhere", room="kitchen")
    for number in range(6):
        await say(chat, f"{number}")
    assert await texts(chat) == ["3", "4", "5"]
    assert await texts(chat, "kitchen") == ["elsewhere"]


async def test_nobody_makes_the_private_messages_of_others_disappear(chat: ChatStore) -> None:
    await whisper(chat, "to bob")
    await whisper(chat, "to carol", to="carol")
    for number in range(6):
        await whisper(chat, f"{number}", author="eve")
    assert await private_texts(chat, "bob") == ["to bob", "3", "4", "5"]
    assert await private_texts(chat, "alice") == ["to bob", "to carol"]


async def test_the_pages_before_a_message(chat: ChatStore) -> None:
    said = [await say(chat, f"{number}") for number in range(4)]
    elsewhere = await say(chat, "elsewhere", room="kitchen")
    assert await texts(chat, last=2) == ["2", "3"]
    assert await texts(chat, last=2, before=said[2].id) == ["1"]
    assert await texts(chat, last=0) == []
    # One that was deleted, one of another room, and one that never was.
    for before in (said[0].id, elsewhere.id, "?"):
        assert await texts(chat, before=before) == []


async def test_a_stranger_s_message_is_no_place_in_a_list(chat: ChatStore) -> None:
    await whisper(chat, "to bob")
    hidden = await whisper(chat, "hidden", author="eve", to="mallory")
    assert await private_texts(chat, "bob", before=hidden.id) == []
