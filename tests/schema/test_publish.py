import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gqlnotify import TopicManager
from schema.app import create_app
from schema.settings import TaskSettings
from tests.schema.client import Client, operation, token
from tests.schema.conftest import serving

pytestmark = pytest.mark.processes


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"deeper": value}
    return value


def payload_of(size: int) -> str:
    """Return a string whose JSON has `size` bytes."""
    return "é" * ((size - 2) // 2) + "e" * (size % 2)


async def test_what_is_published_reaches_who_listens(client: Client) -> None:
    payload = {"text": "hello", "numbers": [1, 2.5, -0.5, 10**40, None, True], "\0": "é\0"}
    start = await publish(client, "chat", "start")
    variables = {"topic": "chat", "after": start["cursor"]}
    async with client.stream("notifications", variables, bearer=token("bob")) as bob:
        published = await publish(client, "chat", payload)
        assert await bob.event() == published
    assert published["payload"] == payload
    assert published["author"] == "alice"
    assert published["topic"] == "chat"
    assert datetime.fromisoformat(published["publishedAt"]).utcoffset() is not None


async def test_a_notification_resumes_from_its_own_cursor(client: Client) -> None:
    sent = [await publish(client, "chat", number) for number in range(5)]
    variables = {"topic": "chat", "after": sent[1]["cursor"]}
    async with client.stream("notifications", variables) as stream:
        assert await stream.events(3) == sent[2:]


async def test_notifications_survive_whatever_is_published_by_name(
    settings: TaskSettings, topics: TopicManager, socket: Path
) -> None:
    values = ["x", [1], None, {"payload": 1}, {"payload": 1, "author": 2, "published_at": {}}]
    async with serving(create_app(settings, topics=topics), socket) as client:
        start = await publish(client, "news", "start")
        cursors = [str(await topics.publish("news", value)) for value in values]
        end = await publish(client, "news", "end")
        variables = {"topic": "news", "after": start["cursor"]}
        async with client.stream("notifications", variables) as stream:
            for cursor in cursors:
                result = await stream.result()
                assert result["errors"][0]["extensions"]["code"] == "EVENT_UNREADABLE"
                assert result["extensions"] == {"cursor": cursor}
            assert await stream.event() == end


async def test_a_repeated_event_id_has_the_effect_of_once(client: Client) -> None:
    start = await publish(client, "chat", "start")
    first = await publish(client, "chat", "once", eventId="e1")
    again = await publish(client, "chat", "once", eventId="e1")
    await publish(client, "chat", "end", eventId="e" * 200)
    assert again["cursor"] == first["cursor"]
    async with client.stream(
        "notifications", {"topic": "chat", "after": start["cursor"]}
    ) as stream:
        assert [event["payload"] for event in await stream.events(2)] == ["once", "end"]


async def test_nobody_can_use_up_anothers_event_id(client: Client) -> None:
    one = await publish(client, "chat", 1, eventId="b:c", bearer=token("a"))
    two = await publish(client, "chat", 2, eventId="c", bearer=token("a:b"))
    three = await publish(client, "chat", 3, eventId="c", bearer=token("a" * 3000))
    assert len({one["cursor"], two["cursor"], three["cursor"]}) == 3


@pytest.mark.parametrize("event_id", ["", "x" * 201, "nul \0", "half \ud800"])
async def test_a_bad_event_id_is_refused(client: Client, event_id: str) -> None:
    await refused(client, {"topic": "chat", "payload": 1, "eventId": event_id}, "eventId")


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 - 1])
async def test_a_payload_of_64_kib_is_allowed(client: Client, size: int) -> None:
    text = payload_of(size)
    assert len(json.dumps(text, ensure_ascii=False).encode()) == size
    assert (await publish(client, "chat", text))["payload"] == text


async def test_a_payload_over_64_kib_is_refused(client: Client) -> None:
    await refused(client, {"topic": "chat", "payload": payload_of(64 * 1024 + 1)}, "payload")


async def test_a_payload_of_100_levels_reaches_who_listens(client: Client) -> None:
    start = await publish(client, "chat", "start")
    await publish(client, "chat", nested(100))
    async with client.stream(
        "notifications", {"topic": "chat", "after": start["cursor"]}
    ) as stream:
        assert (await stream.event())["payload"] == nested(100)


@pytest.mark.parametrize("levels", [101, 250])
async def test_a_deeper_payload_is_refused(client: Client, levels: int) -> None:
    await refused(client, {"topic": "chat", "payload": nested(levels)}, "payload")


@pytest.mark.parametrize("literal", ["1e999", "[-1e999]", '{a: "half \\ud800"}'])
async def test_a_literal_payload_that_is_not_json_is_refused(client: Client, literal: str) -> None:
    document = f'mutation {{ publish(topic: "chat", payload: {literal}) {{ cursor }} }}'
    [error] = (await client.post(document))["errors"]
    # A lone surrogate is refused by the parser of GraphQL already.
    assert "\\ud800" in literal or error["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize("payload", [float("nan"), float("inf"), ["half \ud800"], {"\ud800": 1}])
async def test_a_payload_that_is_not_json_is_refused(client: Client, payload: Any) -> None:
    variables = {"topic": "chat", "payload": payload}
    result = await client.post(operation("publish"), variables)
    assert result.get("data") is None
    assert result["errors"]


async def test_nothing_about_a_topic_is_kept_from_those_who_may(client: Client) -> None:
    writer = token("writer", subscribe=(), publish=("chat",))
    reader = token("reader", subscribe=("chat",), publish=())
    start = await publish(client, "chat", "start", bearer=writer)
    sent = await publish(client, "chat", "more", bearer=writer)
    variables = {"topic": "chat", "after": start["cursor"]}
    async with client.stream("notifications", variables, bearer=reader) as stream:
        assert await stream.event() == sent


async def test_a_topic_is_closed_to_those_without_the_right(client: Client) -> None:
    writer = token("writer", subscribe=(), publish=("chat",))
    reader = token("reader", subscribe=("chat",), publish=())
    error = await client.error("publish", {"topic": "chat", "payload": 1}, bearer=reader)
    assert error["extensions"]["code"] == "FORBIDDEN"
    async with client.stream("notifications", {"topic": "chat"}, bearer=writer) as stream:
        assert (await stream.error())["extensions"]["code"] == "FORBIDDEN"


@pytest.mark.parametrize("topic", ["tasks", "tasks.1", "tasks.", "tasks.a.b", "tasks.<id>"])
async def test_the_services_own_topics_are_not_free(client: Client, topic: str) -> None:
    error = await client.error("publish", {"topic": topic, "payload": 1})
    assert error["extensions"]["code"] == "FORBIDDEN"
    async with client.stream("notifications", {"topic": topic}) as stream:
        assert (await stream.error())["extensions"]["code"] == "FORBIDDEN"


async def test_nobody_publishes_or_follows_what_is_revoked(client: Client) -> None:
    topic = "gqlnotify.revocations"
    everything = token("root", subscribe=("*", topic), publish=("*", topic))
    variables = {"topic": topic, "payload": {"subject": "alice", "at": 1e12}}
    error = await client.error("publish", variables, bearer=everything)
    assert error["extensions"]["code"] == "FORBIDDEN"
    async with client.stream("notifications", {"topic": topic}, bearer=everything) as stream:
        assert (await stream.error())["extensions"]["code"] == "FORBIDDEN"
    assert await client.data("me")


@pytest.mark.parametrize("topic", ["Tasks", "tasks2", "my.tasks"])
async def test_a_topic_that_only_looks_like_the_services_is_free(
    client: Client, topic: str
) -> None:
    assert (await publish(client, topic, 1))["topic"] == topic


@pytest.mark.parametrize("topic", ["", ".", "a..b", "a b", "a*", "<id>", "é", "x" * 201, "\0"])
async def test_a_bad_topic_name_is_refused(client: Client, topic: str) -> None:
    error = await client.error("publish", {"topic": topic, "payload": 1})
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    async with client.stream("notifications", {"topic": topic}) as stream:
        assert (await stream.error())["extensions"]["code"] == "BAD_USER_INPUT"


async def publish(
    client: Client, topic: str, payload: Any, *, bearer: str | None = None, **rest: Any
) -> dict[str, Any]:
    variables = {"topic": topic, "payload": payload, **rest}
    sent: dict[str, Any] = await client.data("publish", variables, bearer=bearer)
    return sent


async def refused(client: Client, variables: dict[str, Any], argument: str) -> None:
    error = await client.error("publish", variables)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith(f"{argument}: ")
