"""What was published, in histories that begin with each test."""

import pytest
from fastapi import FastAPI

from gqlnotify import TopicManager
from gqlnotify.testing import Published, connect
from tests.testing.app import MESSAGES, ROOMS, Message, app, topics

SAY = 'mutation { say(text: "hi") }'


@pytest.mark.parametrize("_round", range(2))
async def test_each_test_sees_its_own_events_only(
    ann: str, published: Published, _round: int
) -> None:
    assert published(MESSAGES) == []
    async with connect(app, token=ann) as client:
        said = await client.execute(SAY)
    await topics.publish(ROOMS(room="red"), "hello", event_id="1")
    await topics.publish(ROOMS(room="red"), "hello again", event_id="1")
    await topics.publish(ROOMS(room="blue"), "hi")

    assert published(MESSAGES) == [Message(author="ann", text="hi")]
    assert [str(event.cursor) for event in published.events(MESSAGES)] == [said.data["say"]]
    assert published(ROOMS) == ["hello", "hi"]
    assert published(ROOMS(room="blue")) == ["hi"]


async def test_two_clients_one_after_the_other_share_the_history(ann: str) -> None:
    async with connect(app, token=ann) as client:
        said = await client.execute(SAY)
    async with connect(app, token=ann) as client:
        await client.execute(SAY)
        again = client.subscribe("subscription { messages { text } }", after=said.data["say"])
        await again.take(1)
        await again.expect_nothing()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("_round", range(2))
async def test_the_history_is_fresh_in_an_event_loop_that_goes_on(
    ann: str, published: Published, _round: int
) -> None:
    # A mounted application has no lifespan, so its topics stay open.
    outer = FastAPI()
    outer.mount("/chat", app)
    async with connect(outer, token=ann, path="/chat/graphql") as client:
        await client.subscribe("subscription { messages { text } }")
        await client.execute(SAY)

    assert published(MESSAGES) == [Message(author="ann", text="hi")]


async def test_a_running_manager_keeps_its_broker(published: Published) -> None:
    manager = TopicManager()
    assert manager.settings.broker_url == "memory://"
    with pytest.raises(RuntimeError, match="can't exchange its broker: close it first"):
        await _exchange_while_running(manager)


async def _exchange_while_running(manager: TopicManager) -> None:
    async with manager.held_open():
        manager.exchange_broker(TopicManager()._broker)
