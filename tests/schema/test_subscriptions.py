import asyncio
import json
from typing import Any

import pytest

from tests.schema.client import PATIENCE, Client, Stream, token

pytestmark = pytest.mark.processes


def seen(event: dict[str, Any]) -> tuple[str, str, int]:
    return event["kind"], event["task"]["title"], event["task"]["version"]


async def event_cursor(client: Client) -> str:
    return str((await client.data("tasks"))["eventCursor"])


async def test_every_change_is_an_event_with_the_task_and_who_did_it(client: Client) -> None:
    after = await event_cursor(client)
    async with client.stream("taskEvents", {"after": after}, bearer=token("bob")) as stream:
        created = await client.create("one")
        updated = await client.update(created["id"], title="two")
        deleted = await client.data("deleteTask", {"id": created["id"]})
        events = await stream.events(3)
    assert [event["task"] for event in events] == [created, updated, deleted]
    assert [event["kind"] for event in events] == ["CREATED", "UPDATED", "DELETED"]
    assert {event["actor"] for event in events} == {"alice"}
    assert [event["at"] for event in events[:2]] == [created["createdAt"], updated["updatedAt"]]
    assert events[2]["at"] > events[1]["at"]


async def test_a_list_and_the_stream_after_its_cursor_miss_nothing(client: Client) -> None:
    writing = asyncio.create_task(write(client, 40))
    page = await client.data("tasks")
    known = {edge["node"]["id"] for edge in page["edges"]}
    async with client.stream("taskEvents", {"after": page["eventCursor"]}) as stream:
        written = set(await writing)
        while known < written:
            known.add((await stream.event())["task"]["id"])
    assert known == written


async def write(client: Client, count: int) -> list[str]:
    return [(await client.create(f"task {number}"))["id"] for number in range(count)]


async def test_a_client_that_comes_back_with_its_cursor_gets_what_it_missed(
    client: Client,
) -> None:
    after = await event_cursor(client)
    async with client.stream("taskEvents", {"after": after}) as stream:
        await client.create("seen")
        cursor = (await stream.result())["extensions"]["cursor"]
    await client.create("missed")
    async with client.stream("taskEvents", {"after": cursor}) as stream:
        await client.create("live")
        assert [seen(event)[1] for event in await stream.events(2)] == ["missed", "live"]


@pytest.mark.parametrize("null", [{}, {"taskId": None, "kinds": None}])
async def test_filters_that_are_left_out_or_null_let_everything_through(
    client: Client, null: dict[str, None]
) -> None:
    after = await event_cursor(client)
    task = await client.create("one")
    await client.update(task["id"], title="two")
    async with client.stream("taskEvents", {"after": after, **null}) as stream:
        assert [seen(event) for event in await stream.events(2)] == [
            ("CREATED", "one", 1),
            ("UPDATED", "two", 2),
        ]


async def test_kinds_and_task_filter_the_stream(client: Client) -> None:
    after = await event_cursor(client)
    one, two = await client.create("one"), await client.create("two")
    for number in range(3):
        await client.update(one["id"], title=f"one {number}")
        await client.update(two["id"], title=f"two {number}")
    await client.data("deleteTask", {"id": two["id"]})
    variables = {"after": after, "taskId": two["id"], "kinds": ["CREATED", "DELETED"]}
    async with client.stream("taskEvents", variables) as stream:
        assert [seen(event) for event in await stream.events(2)] == [
            ("CREATED", "two", 1),
            ("DELETED", "two 2", 4),
        ]


async def test_no_kinds_at_all_are_refused(client: Client) -> None:
    async with client.stream("taskEvents", {"kinds": []}) as stream:
        error = await stream.error()
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith("kinds: ")


async def test_the_right_to_one_task_opens_this_task_only(client: Client) -> None:
    after = await event_cursor(client)
    mine, other = await client.create("mine"), await client.create("other")
    narrow = token("bob", subscribe=(f"tasks.{mine['id']}",), publish=())
    variables = {"taskId": mine["id"], "after": after}
    async with client.stream("taskEvents", variables, bearer=narrow) as stream:
        assert seen(await stream.event())[1] == "mine"
    for taken in ({"taskId": other["id"]}, {}, {"taskId": "*"}):
        async with client.stream("taskEvents", taken, bearer=narrow) as stream:
            await forbidden(stream)


async def test_events_are_closed_to_those_without_the_right(client: Client) -> None:
    stranger = token("eve", subscribe=("chat",))
    async with client.stream("taskEvents", bearer=stranger) as stream:
        await forbidden(stream)


async def forbidden(stream: Stream) -> None:
    assert (await stream.error())["extensions"]["code"] == "FORBIDDEN"


@pytest.mark.parametrize("name", ["taskEvents", "notifications"])
@pytest.mark.parametrize(
    ("after", "code"), [("", "BAD_USER_INPUT"), ("x", "BAD_USER_INPUT"), ("1-1", "CURSOR_EXPIRED")]
)
async def test_a_cursor_that_can_not_be_honoured_is_an_error(
    client: Client, name: str, after: str, code: str
) -> None:
    async with client.stream(name, {"topic": "chat", "after": after}) as stream:
        assert (await stream.error())["extensions"]["code"] == code


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0,application/json"]
)
async def test_events_come_over_http_as_well(client: Client, accept: str) -> None:
    after = await event_cursor(client)
    await client.create("one")
    async with client.lines("taskEvents", {"after": after}, accept=accept) as lines:
        async with asyncio.timeout(PATIENCE):
            line = await anext(line async for line in lines if "taskEvents" in line)
    result = json.loads(line.removeprefix("data: "))
    event = result.get("payload", result)["data"]["taskEvents"]
    assert seen(event) == ("CREATED", "one", 1)
