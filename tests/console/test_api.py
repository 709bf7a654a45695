"""The console's API, as a script uses it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI

from gqlnotify import TopicManager
from gqlnotify.brokers.redis import RedisBroker
from gqlnotify.connections import report
from gqlnotify.console.asking import Console
from gqlnotify.testing import Client, connect
from gqlnotify.testing.errors import OperationFailed
from gqlnotify.topics.revocation import Revocations
from tests.console.support import API, NUMBERS, SETTINGS, application, token
from tests.waiting import wait_until

SUBSCRIBE = "subscription Numbers { numbers }"
CONNECTIONS = """query($search: String! = "") { connections(search: $search) {
    total
    connections {
        id subject tokenId address transport since heldBytes process { name pid version }
        operations { id document topic acknowledged }
    }
    silent { name }
} }"""


@pytest.fixture
def topics() -> TopicManager:
    return TopicManager(settings=SETTINGS)


@pytest.fixture
def app(topics: TopicManager) -> FastAPI:
    return application(topics)


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[Client]:
    async with connect(app, token=token(), path=API) as client:
        yield client


@pytest.fixture
async def alice(app: FastAPI) -> AsyncIterator[Client]:
    async with connect(app, token=token("alice", subscribe="numbers")) as client:
        yield client


async def asked(client: Client, document: str, **variables: Any) -> Any:
    return (await client.execute(document, variables)).data


async def test_the_overview_counts_what_is_open_and_what_was_delivered(
    operator: Client, alice: Client, topics: TopicManager
) -> None:
    numbers = await alice.subscribe(SUBSCRIBE)
    document = """{ overview {
        connections operations deliveries refusals { reason count }
        processes { process { pid version } connections } silent { name }
    } }"""
    before = (await asked(operator, document))["overview"]
    await topics.publish(NUMBERS, 1)
    await anext(numbers)

    overview = (await asked(operator, document))["overview"]

    assert overview["connections"] == 2
    assert overview["deliveries"] == before["deliveries"] + 1
    assert [each["connections"] for each in overview["processes"]] == [2]
    assert overview["silent"] == []


async def test_the_rates_of_the_overview_come_with_its_second_value(operator: Client) -> None:
    stream = await operator.subscribe(
        "subscription { overview { rates { deliveries lagSeconds } } }"
    )

    assert (await anext(stream)).data == {"overview": {"rates": None}}
    second = (await anext(stream)).data
    assert second["overview"]["rates"]["deliveries"] >= 0


async def test_a_topic_has_its_subscribers_and_groups(
    operator: Client, alice: Client, app: FastAPI
) -> None:
    async with connect(app, token=token("bob", subscribe="numbers")) as bob:
        for client in (alice, bob):
            await client.subscribe(SUBSCRIBE)

        found = await asked(
            operator,
            '{ topics(search: "num") { topics { name subscribers groups eventsPerSecond } } }',
        )

    [topic] = found["topics"]["topics"]
    assert (topic["name"], topic["subscribers"], topic["groups"]) == ("numbers", 2, 1)
    assert topic["eventsPerSecond"] is None


async def test_the_events_of_a_topic_can_be_measured_browsed_and_searched(
    operator: Client, topics: TopicManager
) -> None:
    cursors = [await topics.publish(NUMBERS, 100 + number) for number in range(150)]

    found = await asked(
        operator,
        """{
            history(topic: "numbers") { length oldest newest bytes }
            newest: events(topic: "numbers", first: 2) { events { cursor payload } after }
            found: events(topic: "numbers", search: "24", first: 1) {
                events { cursor payload } searched after
            }
            none: events(topic: "numbers", search: "x") { events { cursor } searched after }
        }""",
    )

    assert found["history"]["length"] == 150
    assert found["history"]["newest"] == cursors[-1]
    assert found["history"]["bytes"] == 450
    assert [each["payload"] for each in found["newest"]["events"]] == [248, 249]
    assert found["found"] == {
        "events": [{"cursor": cursors[24], "payload": 124}],
        "searched": 25,
        "after": cursors[24],
    }
    assert found["none"] == {"events": [], "searched": 150, "after": None}


async def test_what_is_published_is_seen_by_who_watches(operator: Client) -> None:
    watched = await operator.subscribe(
        'subscription { events(topic: "numbers") { payload id bytes } }'
    )

    published = await asked(
        operator, 'mutation { publish(topic: "numbers", value: 7, eventId: "a") }'
    )

    assert published["publish"].endswith("-1")
    assert (await anext(watched)).data == {"events": {"payload": 7, "id": "a", "bytes": 1}}


async def test_it_shows_who_is_present(operator: Client, app: FastAPI) -> None:
    document = '{ presence(topic: "room") { count members { subject connections } } }'

    async def is_there() -> bool:
        found = (await asked(operator, document))["presence"]
        return bool(found == {"count": 1, "members": [{"subject": "bob", "connections": 1}]})

    async with connect(app, token=token("bob", subscribe="room")) as bob:
        await bob.subscribe("subscription { room }")
        await wait_until(is_there)


async def test_a_connection_shows_who_it_is_and_what_it_runs(
    operator: Client, alice: Client
) -> None:
    await alice.subscribe(SUBSCRIBE)

    found = (await asked(operator, CONNECTIONS, search="ALICE"))["connections"]

    assert found["total"] == 1
    [connection] = found["connections"]
    assert connection["subject"] == "alice"
    assert connection["transport"] == "graphql-transport-ws"
    assert connection["tokenId"]
    [operation] = connection["operations"]
    assert (operation["topic"], operation["document"]) == ("numbers", SUBSCRIBE)
    assert operation["acknowledged"]


async def test_an_operator_can_end_a_connection(operator: Client, alice: Client) -> None:
    [connection] = (await asked(operator, CONNECTIONS, search="alice"))["connections"][
        "connections"
    ]
    disconnect = "mutation($id: ID!) { disconnect(connection: $id) }"

    assert await asked(operator, disconnect, id=connection["id"]) == {"disconnect": True}

    assert (await alice.closed()).code == 1012
    assert await asked(operator, disconnect, id=connection["id"]) == {"disconnect": False}


@pytest.mark.parametrize("by", ["subject", "tokenId"])
async def test_an_operator_can_revoke(operator: Client, alice: Client, by: str) -> None:
    [connection] = (await asked(operator, CONNECTIONS, search="alice"))["connections"][
        "connections"
    ]

    await asked(operator, f"mutation($who: String) {{ revoke({by}: $who) }}", who=connection[by])

    assert (await alice.closed()).code == 4403


async def test_an_operator_says_whom_to_revoke(operator: Client) -> None:
    with pytest.raises(OperationFailed, match="either subject or tokenId"):
        await operator.execute("mutation { revoke }")


async def test_an_operation_has_its_executions_and_errors(
    operator: Client, alice: Client, topics: TopicManager
) -> None:
    numbers = await alice.subscribe(SUBSCRIBE)
    await topics.publish(NUMBERS, 1)
    await anext(numbers)
    # Not an int.
    await topics.publish("numbers", "one")
    with pytest.raises(OperationFailed):
        await anext(numbers)

    found = await asked(
        operator,
        "{ operations { total operations { name document topic subscribers executions errors "
        "seconds meanSeconds } } }",
    )

    [operation] = found["operations"]["operations"]
    assert operation["name"] == "Numbers"
    assert (operation["subscribers"], operation["executions"], operation["errors"]) == (1, 2, 1)
    assert operation["meanSeconds"] == pytest.approx(operation["seconds"] / 2)


async def test_resolvers_are_timed_from_the_first_look_on(
    operator: Client, alice: Client, topics: TopicManager
) -> None:
    numbers = await alice.subscribe("subscription { doubled { value double } }")
    document = "{ operations { operations { resolvers { name calls seconds } } } }"

    async def after_an_event() -> Any:
        await topics.publish(NUMBERS, 1)
        await anext(numbers)
        return (await asked(operator, document))["operations"]["operations"][0]["resolvers"]

    assert await after_an_event() == []
    [resolver] = await after_an_event()
    assert (resolver["name"], resolver["calls"]) == ("Number.double", 1)


async def test_lists_are_bounded(operator: Client) -> None:
    with pytest.raises(OperationFailed, match="at least 1"):
        await operator.execute("{ topics(first: 0) { total } }")


@pytest.mark.processes
async def test_two_processes_are_shown_together_and_a_worker_by_its_name(redis_url: str) -> None:
    settings = SETTINGS.model_copy(
        update={"broker_url": redis_url, "broker_prefix": f"console-{uuid4()}"}
    )
    managers = [TopicManager(RedisBroker(redis_url, prefix=settings.broker_prefix)) for _ in "abc"]
    for manager in managers[:2]:
        application(manager, settings=settings)
    console = Console(managers[0], Revocations(managers[0], settings))
    async with AsyncExitStack() as running:
        for manager in managers:
            await running.enter_async_context(manager.held_open())
        stream = managers[1].subscribe(NUMBERS)
        await stream.start()

        async def all_answer() -> bool:
            asked = await console.ask(report.TOPICS)
            return len(asked.answers) == 2 and len(asked.others) == 1

        await wait_until(all_answer)
        overview = await console.ask(report.OVERVIEW)
        topics = await console.ask(report.TOPICS, search="numbers")
        await stream.aclose()

    assert [each.id for each in overview.others] == [managers[2].survey.process.id]
    assert (overview.failed, overview.silent) == ((), ())
    [(process, row)] = topics.rows
    assert process.id == managers[1].survey.process.id
    assert row["subscribers"] == 1


async def test_a_report_is_about_the_routers_of_its_own_topics(operator: Client) -> None:
    other = application(TopicManager(settings=SETTINGS))
    async with connect(other, token=token("mallory", subscribe="numbers")):
        found = await asked(operator, CONNECTIONS, search="mallory")

    assert found["connections"]["total"] == 0
