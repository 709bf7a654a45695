"""A client that sends no cursor loses nothing when its connection is cut."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack, aclosing
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from gqlnotify import Topic, TopicManager
from gqlnotify.brokers import MemoryBroker
from gqlnotify.event_loop import Rounds, Visited
from gqlnotify.protocol.connection import ServerConnection
from gqlnotify.protocol.messages import Subscribe
from gqlnotify.server.websocket import WebSocketProtocol
from gqlnotify.websocket.acknowledgements import Acknowledgements
from tests.applications import application
from tests.message_app import MessageApp
from tests.servers import running
from tests.stock_client import DOCUMENT, StockClient
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

MINE = "subscription { mine }"


@pytest.fixture(params=[WebSocketProtocol, "auto"], ids=["direct", "portable"])
async def server(request: pytest.FixtureRequest, message_app: MessageApp) -> Any:
    async with running(application(message_app.locked()), ws=request.param) as origin:
        yield origin


async def test_a_client_gets_what_it_missed_and_nothing_that_it_acknowledged(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient()
    async with client.connected(server):
        await client.armed()
        cursor = await message_app.say("before")
        await client.gets("before")
        await client.acknowledges(cursor)
    await message_app.say("missed")
    async with client.connected(server):
        await client.armed()
        await message_app.say("live")
        await client.gets("missed", "live")


async def test_an_event_after_the_first_ping_is_not_lost_if_the_line_is_cut_before_it_arrives(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient()
    async with client.connected(server):
        await client.armed()
    await message_app.say("blind")
    async with client.connected(server):
        await client.gets("blind")


async def test_what_was_sent_and_not_acknowledged_is_sent_again_and_marked(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient()
    async with client.connected(server):
        await client.armed()
        client.answers = False
        await message_app.say("unsure")
        await client.gets("unsure")
    client.answers = True
    await message_app.say("new")
    async with client.connected(server):
        await client.gets("again: unsure", "new")


async def test_an_operation_for_each_viewer_is_resumed_too(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient(MINE)
    async with client.connected(server):
        await client.armed()
        client.answers = False
        await message_app.say("unsure")
        await client.gets("alice: unsure")
    client.answers = True
    await message_app.say("new")
    async with client.connected(server):
        await client.gets("again: alice: unsure", "alice: new")
        cursor = await message_app.say("live")
        await client.gets("alice: live")
        await client.acknowledges(cursor)
    async with client.connected(server):
        await client.armed()
        await message_app.say("end")
        await client.gets("alice: end")


async def test_a_client_that_was_cut_twice_during_its_replay_loses_nothing(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient()
    texts = [str(n) for n in range(500)]
    async with client.connected(server):
        await client.armed()
    for text in texts:
        await message_app.say(text)
    seen: set[str] = set()
    for _ in range(2):
        async with client.connected(server):
            await wait_until(lambda: bool(client.received))
        seen |= {text.removeprefix("again: ") for text in client.take()}
    async with client.connected(server):
        await wait_until(lambda: bool(client.received) and "499" in _last(client))
        seen |= {text.removeprefix("again: ") for text in client.take()}
    assert seen == set(texts)


def _last(client: StockClient) -> str:
    return str(client.received[-1]["data"])


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "bob"},
        {"document": "subscription { messages { text  } }"},
        {"payload": {"variables": {"unused": 1}}},
        {"id": "919108f7-52d1-4320-9bac-f847db4148a8"},
    ],
    ids=["subject", "document", "variables", "id"],
)
async def test_another_operation_is_not_resumed(
    server: str, message_app: MessageApp, change: dict[str, Any]
) -> None:
    client = StockClient()
    async with client.connected(server):
        await client.armed()
    await message_app.say("missed")
    vars(client).update(change)
    async with client.connected(server):
        await client.armed()
        await message_app.say("live")
        await client.gets("live")


async def test_an_operation_that_its_client_completed_is_not_resumed(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient()
    async with client.connected(server) as socket:
        await client.armed()
        await socket.complete(client.id)
        await client.is_heard()
    await message_app.say("missed")
    async with client.connected(server):
        await client.armed()
        await message_app.say("live")
        await client.gets("live")


@pytest.mark.parametrize("id_", ["1", "a", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"])
async def test_an_id_that_two_clients_may_share_is_not_resumed(
    server: str, message_app: MessageApp, id_: str
) -> None:
    client = StockClient()
    client.id = id_
    async with client.connected(server):
        await wait_until(lambda: message_app.topics.live_topics.by_name)
    await message_app.say("missed")
    async with client.connected(server):
        await _say_until_heard(client, message_app)
        assert "missed" not in client.take()
    assert client.pings == []


async def _say_until_heard(client: StockClient, message_app: MessageApp) -> None:
    async def is_heard() -> bool:
        await message_app.say("live")
        return bool(client.received)

    await wait_until(is_heard)


async def test_a_client_that_began_after_a_cursor_resumes_where_it_acknowledged(
    server: str, message_app: MessageApp
) -> None:
    listed = await message_app.say("listed")
    cursor = await message_app.say("since then")
    client = StockClient(
        "subscription ($after: String) { messages(after: $after) { text } }",
        variables={"after": listed},
    )
    async with client.connected(server):
        await client.gets("since then")
        await client.acknowledges(cursor)
    await message_app.say("missed")
    async with client.connected(server):
        await client.armed()
        await message_app.say("live")
        await client.gets("missed", "live")


async def test_a_client_that_comes_while_the_broker_looks_for_another_is_answered_too(
    server: str, message_app: MessageApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumptions = message_app.topics.resumptions
    positions = resumptions._broker.positions
    claim = positions.claim
    asked = asyncio.Event()
    answered = asyncio.Event()

    async def claim_slowly(*arguments: Any) -> Any:
        asked.set()
        await answered.wait()
        return await claim(*arguments)

    monkeypatch.setattr(positions, "claim", claim_slowly)
    first, second = StockClient(), StockClient()
    async with first.connected(server):
        await asked.wait()
        async with second.connected(server):
            await wait_until(lambda: len(resumptions._claims) == 2)
            answered.set()
            await first.armed()
            await second.armed()


async def test_a_cursor_of_its_own_is_what_a_client_resumes_after(
    server: str, message_app: MessageApp
) -> None:
    first = await message_app.say("first")
    await message_app.say("second")
    client = StockClient(extensions={"after": first})
    for _ in range(2):
        async with client.connected(server):
            await client.gets("second")
    assert client.pings == []


async def _away_too_long(server: str, message_app: MessageApp) -> StockClient:
    client = StockClient()
    async with client.connected(server):
        await client.armed()
    for n in range(1001):
        await message_app.say(str(n))
    return client


async def test_a_client_that_was_away_too_long_is_told_and_goes_on_live(
    server: str, message_app: MessageApp
) -> None:
    client = await _away_too_long(server, message_app)
    async with client.connected(server):
        await client.armed()
        await message_app.say("live")
        await client.gets("CURSOR_EXPIRED", "live")
        assert client.close_code is None


async def test_a_client_that_is_cut_before_it_answers_is_told_again_that_it_was_away_too_long(
    server: str, message_app: MessageApp
) -> None:
    client = await _away_too_long(server, message_app)
    client.answers = False
    for _ in range(2):
        async with client.connected(server):
            await client.gets("CURSOR_EXPIRED")


@pytest.mark.parametrize(
    ("document", "label"), [(DOCUMENT, ""), (MINE, "alice: ")], ids=["shared", "own"]
)
async def test_a_client_whose_history_is_lost_while_it_is_connected_is_told_and_goes_on(
    server: str, message_app: MessageApp, document: str, label: str
) -> None:
    client = StockClient(document)
    async with client.connected(server):
        await client.armed()
        await message_app.say("before")
        await client.gets(label + "before")
        _forget_history(message_app)
        await message_app.say("lost with the history")
        await client.gets("CURSOR_EXPIRED")
        cursor = await message_app.say("after")
        await client.gets(label + "after")
        await client.acknowledges(cursor)
    await message_app.say("missed")
    async with client.connected(server):
        await client.gets(label + "missed")
    assert client.errors == []


async def test_a_client_that_is_cut_before_it_answers_is_told_again_that_history_was_lost(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient()
    async with client.connected(server):
        await client.armed()
        client.answers = False
        _forget_history(message_app)
        await message_app.say("lost with the history")
        await client.gets("CURSOR_EXPIRED")
    async with client.connected(server):
        await client.gets("CURSOR_EXPIRED")


async def test_a_client_with_a_cursor_of_its_own_gets_an_error_if_history_is_lost(
    server: str, message_app: MessageApp
) -> None:
    first = await message_app.say("first")
    await message_app.say("second")
    client = StockClient(extensions={"after": first})
    async with client.connected(server):
        await client.gets("second")
        _forget_history(message_app)
        await message_app.say("lost with the history")
        await wait_until(lambda: client.errors)
    assert client.errors[0]["extensions"]["code"] == "CURSOR_EXPIRED"


def _forget_history(message_app: MessageApp) -> None:
    broker = message_app.topics._broker
    assert isinstance(broker, MemoryBroker)
    broker._histories.clear()


@pytest.mark.parametrize("answers", [True, False], ids=["received", "not received"])
async def test_a_client_that_was_told_that_its_operation_is_over_does_not_resume_it(
    server: str, message_app: MessageApp, answers: bool
) -> None:
    client = StockClient("subscription { kept }")
    async with client.connected(server):
        await client.armed()
        cursor = await message_app.say("before")
        await client.gets("before")
        await client.acknowledges(cursor)
        client.answers = answers
        await message_app.kept[-1].aclose()
        await wait_until(lambda: client.is_completed)
        await client.is_heard()
    client.answers = True
    await message_app.say("missed")
    async with client.connected(server):
        await client.armed()
        await message_app.say("live")
        # A client that may not know that it is over must not miss anything.
        await client.gets(*(["live"] if answers else ["missed", "live"]))


async def test_no_ping_names_an_operation_whose_end_waits_to_be_written() -> None:
    outgoing: Any = SimpleNamespace(pings=[])
    outgoing.send_now = outgoing.pings.append
    operation = Subscribe(id=str(uuid4()), query=DOCUMENT)
    topics = TopicManager(MemoryBroker())
    async with topics.held_open():
        client = Acknowledgements(outgoing, ServerConnection(), {}, interval=1)
        resumption = client.begin(operation, "alice")
        assert resumption is not None
        async with aclosing(topics.subscribe(Topic("words", str))) as stream:
            await stream.start()
            topics.resumptions.begin(resumption, stream.subscriber)
            await wait_until(lambda: resumption.runs)
            outgoing.pings.clear()

            concluded = client.conclude(operation.id)
            sent = stream.subscriber.position.next()
            resumption.progress.advance(sent, sent)
            client.ask()
            resumption.claimed_by_another()
            assert outgoing.pings == []

            # Its pong shows that the client knows the end.
            assert concluded is not None
            client.told(concluded)
            assert operation.id in str(outgoing.pings[0])
            client.acknowledge({operation.id: sent})
            assert resumption.is_over


class Running(dict[str, object]):
    """Counts how often the operations are looked at."""

    looks = 0

    def get(self, id_: str, _default: object = None) -> object:
        """Return the operation with this id."""
        self.looks += 1
        return super().get(id_)


class AllGroups(Visited):
    """The groups of one client, which have all got further."""

    def __init__(self, client: Visited) -> None:
        self._client = client
        self.visited = 0

    def on_round(self) -> Iterable[Visited]:
        """Visit the client once for each group."""
        self.visited += 1
        return [self._client] * 100


async def test_the_operations_of_a_client_are_looked_at_once_in_a_round() -> None:
    outgoing: Any = SimpleNamespace()
    running = Running()
    client = Acknowledgements(outgoing, ServerConnection(), running, interval=0.001)
    client.begin(Subscribe(id=str(uuid4()), query=DOCUMENT), "alice")
    groups, rounds = AllGroups(client), Rounds.of(asyncio.get_running_loop())
    for number in (1, 2):
        rounds.add(groups)
        await wait_until(lambda number=number: groups.visited == running.looks == number)


async def test_a_second_connection_with_the_same_id_does_not_hurt_the_first(
    server: str, message_app: MessageApp
) -> None:
    first, second = StockClient(), StockClient()
    second.id = first.id
    async with second.connected(server):
        await second.armed()
        async with first.connected(server):
            await first.armed()
            cursor = await message_app.say("both")
            for client in (first, second):
                await client.gets("both")
                await client.acknowledges(cursor)
        cursor = await message_app.say("missed by the first")
        await second.gets("missed by the first")
        await second.acknowledges(cursor)
        async with first.connected(server):
            await wait_until(lambda: bool(first.received))
            assert first.take()[0].endswith("missed by the first")
    await message_app.say("missed by the second")
    async with second.connected(server):
        await wait_until(lambda: "missed by the second" in str(second.received))


async def test_pongs_for_what_was_never_sent_acknowledge_nothing(
    server: str, message_app: MessageApp
) -> None:
    client = StockClient()
    async with client.connected(server) as socket:
        await client.armed()
        client.answers = False
        cursor = await message_app.say("unsure")
        await client.gets("unsure")
        await socket.send({"type": "pong"}, {"type": "pong", "payload": {"gqlnotify": 1}})
        for number in (0, -1, 99, True, "2", None, 2.0):
            ours = {"ack": number, "cursors": {client.id: cursor}}
            await socket.send({"type": "pong", "payload": {"gqlnotify": ours}})
        await client.is_heard()
    client.answers = True
    async with client.connected(server):
        await client.gets("again: unsure")


async def test_a_server_that_stops_waits_for_the_last_pong_so_nothing_is_repeated(
    message_app: MessageApp,
) -> None:
    client = StockClient()
    await _gets_the_last_event_of_a_server_that_stops(client, message_app)
    await message_app.say("missed")
    # This process has drained, so its own class takes no more clients.
    async with (
        running(application(message_app.locked())) as origin,
        client.connected(origin),
    ):
        await client.gets("missed")


async def test_a_client_that_owes_its_last_pong_does_not_hold_up_a_server_that_stops(
    message_app: MessageApp,
) -> None:
    client = StockClient()
    await _gets_the_last_event_of_a_server_that_stops(client, message_app, answers=False)
    client.answers = True
    async with (
        running(application(message_app.locked())) as origin,
        client.connected(origin),
    ):
        await client.gets("again: last")


async def _gets_the_last_event_of_a_server_that_stops(
    client: StockClient, message_app: MessageApp, *, answers: bool = True
) -> None:
    async with AsyncExitStack() as connection:
        async with running(application(message_app.locked()), ws=WebSocketProtocol) as origin:
            await connection.enter_async_context(client.connected(origin))
            await client.armed()
            client.answers = answers
            await message_app.say("last")
            await client.gets("last")
        await wait_until(lambda: client.close_code == 1012)


async def test_an_argument_that_has_left_the_history_does_not_keep_a_client_from_resuming(
    server: str, message_app: MessageApp
) -> None:
    listed = await message_app.say("listed")
    client = StockClient(
        "subscription ($after: String) { messages(after: $after) { text } }",
        variables={"after": listed},
    )
    async with client.connected(server):
        await client.armed()
        for n in range(999):
            await message_app.say(str(n))
        cursor = await message_app.say("last")
        await client.acknowledges(cursor)
        client.take()
    await message_app.say("missed")
    async with client.connected(server):
        await client.gets("missed")
    client.id = str(uuid4())
    async with client.connected(server):
        await wait_until(lambda: client.errors)
    assert client.errors[0]["extensions"]["code"] == "CURSOR_EXPIRED"
