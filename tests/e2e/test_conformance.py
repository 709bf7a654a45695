"""`graphql-transport-ws` as it is specified, against a real server.

The specification is PROTOCOL.md of the npm package graphql-ws. Where it says nothing, the package's
server is the reference.
"""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.raw import MODERN, Socket, open_socket
from tests.servers import Server
from tests.waiting import wait_until

LONE_SURROGATE = "\ud800"
LONG = "x" * 1_000_000
LONGEST_ID = "x" * 256
HELLO = "{ hello }"
COUNT = "subscription ($to: Int!) { count(to: $to) }"

NOT_OBJECTS: tuple[Any, ...] = (
    [],
    ["ping"],
    [{"type": "ping"}],
    "ping",
    "",
    1,
    1.5,
    None,
    True,
    False,
)
NOT_OBJECTS_OR_NULL = tuple(value for value in NOT_OBJECTS if value is not None)
NOT_STRINGS: tuple[Any, ...] = (1, 1.5, True, [], ["x"], {}, {"x": 1})


@pytest.fixture(autouse=True)
def quiet_log(server: Server) -> Iterator[None]:
    before = len(server.trouble)
    yield
    assert server.trouble[before:] == []


@pytest.fixture(autouse=True)
async def still_answers(server: Server, quiet_log: None) -> AsyncIterator[None]:
    yield
    async with open_socket(server.ws) as socket:
        await socket.init()
        assert await socket.query(HELLO) == {"hello": "world"}


@pytest.fixture
async def socket(server: Server) -> AsyncIterator[Socket]:
    async with open_socket(server.ws) as socket:
        yield socket


@pytest.fixture
async def ready(socket: Socket) -> Socket:
    await socket.init()
    return socket


def shown(value: Any) -> str:
    return ascii(value)[:40]


async def assert_closed(socket: Socket, code: int) -> None:
    close = await socket.closed()
    assert close.code == code, close
    assert close.reason
    assert len(close.reason.encode()) <= 123


# The handshake


@pytest.mark.parametrize("offered", [[], ["graphql-ws"], ["mqtt"], ["GRAPHQL-TRANSPORT-WS"]])
async def test_another_subprotocol_closes_with_4406(server: Server, offered: list[str]) -> None:
    async with open_socket(server.ws, subprotocols=offered) as socket:
        await assert_closed(socket, 4406)


async def test_a_refused_legacy_client_gets_the_reason_in_its_own_protocol(server: Server) -> None:
    async with open_socket(server.ws, subprotocols=["graphql-ws"]) as socket:
        assert socket.connection.subprotocol == "graphql-ws"
        await socket.send({"type": "connection_init"})
        await socket.send({"id": "1", "type": "start", "payload": {"query": "{ hello }"}})
        messages = [await socket.receive() for _ in range(2)]
        assert [message["type"] for message in messages] == ["connection_error", "error"]
        assert messages[1]["id"] == "1"
        close = await socket.closed()
    assert close.code == 4406
    for text in (close.reason, *(message["payload"]["message"] for message in messages)):
        assert "graphql-transport-ws" in text
        assert "npm graphql-ws" in text


@pytest.mark.parametrize("offered", [[MODERN], ["mqtt", MODERN], [MODERN, "graphql-ws"]])
async def test_the_subprotocol_is_chosen_among_those_offered(
    server: Server, offered: list[str]
) -> None:
    async with open_socket(server.ws, subprotocols=offered) as socket:
        assert socket.connection.subprotocol == MODERN
        await socket.init()


# connection_init


@pytest.mark.parametrize(
    "message",
    [
        {"type": "connection_init"},
        {"type": "connection_init", "payload": None},
        {"type": "connection_init", "payload": {}},
        {"type": "connection_init", "payload": {"a": {"b": [1, None, "é"]}}},
        {"type": "connection_init", "payload": {LONE_SURROGATE: LONE_SURROGATE}},
        {"type": "connection_init", "payload": {}, "id": "ignored", "more": []},
    ],
    ids=shown,
)
async def test_init_is_acknowledged(socket: Socket, message: Any) -> None:
    await socket.send(message)
    acknowledgement = await socket.receive()
    assert acknowledgement["type"] == "connection_ack"
    assert isinstance(acknowledgement.get("payload"), dict | None)


@pytest.mark.parametrize("payload", NOT_OBJECTS_OR_NULL, ids=shown)
async def test_init_with_a_payload_that_is_not_an_object_closes_with_4400(
    socket: Socket, payload: Any
) -> None:
    await socket.send({"type": "connection_init", "payload": payload})
    await assert_closed(socket, 4400)


async def test_the_application_gives_the_payload_of_the_ack(socket: Socket) -> None:
    acknowledgement = await socket.init({"ack": {"since": 1}})
    assert acknowledgement["payload"] == {"since": 1}


async def test_a_rejection_closes_with_4403(socket: Socket) -> None:
    await socket.send({"type": "connection_init", "payload": {"reject": True}})
    await assert_closed(socket, 4403)


async def test_a_second_init_closes_with_4429(ready: Socket) -> None:
    await ready.send({"type": "connection_init"})
    await assert_closed(ready, 4429)


async def test_two_inits_at_once_close_with_4429(socket: Socket) -> None:
    await socket.send({"type": "connection_init"}, {"type": "connection_init"})
    await assert_closed(socket, 4429)


async def test_a_second_init_closes_with_4429_while_the_first_is_decided(socket: Socket) -> None:
    await socket.send({"type": "connection_init", "payload": {"wait": "never"}})
    await socket.is_silent()
    await socket.send({"type": "connection_init"})
    await assert_closed(socket, 4429)


async def test_no_init_in_time_closes_with_4408(hasty: Server) -> None:
    async with open_socket(hasty.ws) as socket:
        await assert_closed(socket, 4408)


async def test_pings_do_not_prolong_the_time_for_init(hasty: Server) -> None:
    async with open_socket(hasty.ws) as socket:
        await socket.is_silent()
        await assert_closed(socket, 4408)


async def test_init_in_time_stops_that_clock(hasty: Server) -> None:
    async with open_socket(hasty.ws) as socket:
        await socket.init()
        # The interval of the server's pings is longer than the time allowed for init.
        for _ in range(2):
            await pinged(socket)
        assert await socket.query(HELLO) == {"hello": "world"}


async def test_a_client_that_leaves_before_init_logs_no_error(server: Server) -> None:
    async with open_socket(server.ws):
        pass


# subscribe before connection_ack


@pytest.mark.parametrize("document", [HELLO, COUNT, 'mutation { open(gate: "x") }', "{"])
async def test_an_operation_before_init_closes_with_4401(socket: Socket, document: str) -> None:
    await socket.subscribe("1", document)
    await assert_closed(socket, 4401)


async def test_an_operation_before_the_ack_closes_with_4401(socket: Socket) -> None:
    await socket.send({"type": "connection_init", "payload": {"wait": "never"}})
    await socket.subscribe("1", HELLO)
    await assert_closed(socket, 4401)


# ping and pong


@pytest.mark.parametrize(
    "payload",
    [None, {}, {"a": {"b": [1, None, "é"]}}, {"s": LONE_SURROGATE}, {"n": 10**300}, {"x": LONG}],
    ids=shown,
)
async def test_a_pong_carries_the_payload_of_its_ping(ready: Socket, payload: Any) -> None:
    await ready.send({"type": "ping", "payload": payload})
    pong = await ready.receive()
    assert pong["type"] == "pong"
    assert pong.get("payload") == payload


async def test_a_ping_without_payload_is_answered(ready: Socket) -> None:
    await ready.send({"type": "ping"})
    assert await ready.receive() == {"type": "pong"}


async def test_a_ping_is_answered_before_init(socket: Socket) -> None:
    await socket.is_silent()
    await socket.init()


async def test_pings_are_answered_in_their_order(ready: Socket) -> None:
    await ready.send(*({"type": "ping", "payload": {"n": n}} for n in range(100)))
    pongs = [await ready.receive() for _ in range(100)]
    assert [pong["payload"]["n"] for pong in pongs] == list(range(100))


@pytest.mark.parametrize("payload", [None, {}, {"a": 1}], ids=shown)
async def test_an_unsolicited_pong_is_ignored(ready: Socket, payload: Any) -> None:
    await ready.send({"type": "pong", "payload": payload}, {"type": "pong"})
    await ready.is_silent()


async def test_a_pong_is_ignored_before_init(socket: Socket) -> None:
    await socket.send({"type": "pong"})
    await socket.init()


@pytest.mark.parametrize("type_", ["ping", "pong"])
@pytest.mark.parametrize("payload", NOT_OBJECTS_OR_NULL, ids=shown)
async def test_a_ping_or_pong_payload_that_is_not_an_object_closes_with_4400(
    ready: Socket, type_: str, payload: Any
) -> None:
    await ready.send({"type": type_, "payload": payload})
    await assert_closed(ready, 4400)


async def pinged(socket: Socket) -> None:
    assert (await socket.receive())["type"] == "ping"
    await socket.send({"type": "pong"})


async def test_the_server_pings_a_silent_client_and_keeps_one_that_answers(hasty: Server) -> None:
    async with open_socket(hasty.ws) as socket:
        await socket.init()
        for _ in range(5):
            await pinged(socket)
        assert await socket.query(HELLO) == {"hello": "world"}


async def test_a_client_that_does_not_answer_a_ping_is_closed_and_can_reconnect(
    hasty: Server,
) -> None:
    async with open_socket(hasty.ws) as socket:
        await socket.init()
        assert (await socket.receive())["type"] == "ping"
        close = await socket.closed()
        # One of those that the graphql-ws client retries.
        assert close.code in {1001, 1012, 1013, 4403, 4408}


# Queries, mutations and subscriptions


async def test_a_query_gives_its_result_and_completes(ready: Socket) -> None:
    await ready.subscribe("1", HELLO)
    assert await ready.next("1") == {"data": {"hello": "world"}}
    await ready.completed("1")


async def test_a_mutation_gives_its_result_and_completes(ready: Socket) -> None:
    await ready.subscribe("1", 'mutation { open(gate: "any") }')
    assert await ready.next("1") == {"data": {"open": True}}
    await ready.completed("1")


async def test_a_subscription_gives_its_results_in_order_and_completes(ready: Socket) -> None:
    await ready.subscribe("1", COUNT, variables={"to": 3})
    for number in (1, 2, 3):
        assert await ready.next("1") == {"data": {"count": number}}
    await ready.completed("1")


async def test_a_subscription_without_results_only_completes(ready: Socket) -> None:
    await ready.subscribe("1", COUNT, variables={"to": 0})
    await ready.completed("1")


async def test_null_stands_for_absent_in_a_payload(ready: Socket) -> None:
    await ready.subscribe("1", HELLO, variables=None, operationName=None, extensions=None)
    assert await ready.next("1") == {"data": {"hello": "world"}}


async def test_unknown_extensions_and_members_are_ignored(ready: Socket) -> None:
    await ready.subscribe("1", HELLO, extensions={"x": {"y": [1]}}, more=[1, 2])
    assert await ready.next("1") == {"data": {"hello": "world"}}


async def test_the_operation_name_chooses(ready: Socket) -> None:
    two = "query A { a: hello } query B { b: hello }"
    await ready.subscribe("1", two, operationName="B")
    assert await ready.next("1") == {"data": {"b": "world"}}


async def test_the_operation_name_chooses_a_subscription(ready: Socket) -> None:
    two = "query A { hello } subscription B { count(to: 1) }"
    await ready.subscribe("1", two, operationName="B")
    assert await ready.next("1") == {"data": {"count": 1}}
    await ready.completed("1")


async def test_an_error_of_a_field_is_part_of_the_result(ready: Socket) -> None:
    await ready.subscribe("1", "{ hello fails }")
    result = await ready.next("1")
    assert result["data"] == {"hello": "world", "fails": None}
    assert result["errors"][0]["path"] == ["fails"]
    await ready.completed("1")


async def test_many_operations_run_at_once_and_each_keeps_its_order(ready: Socket) -> None:
    ids = [str(n) for n in range(50)]
    for id_ in ids:
        await ready.subscribe(id_, COUNT, variables={"to": 20})
    seen: dict[str, list[int]] = {id_: [] for id_ in ids}
    done: set[str] = set()
    while len(done) < len(ids):
        message = await ready.receive()
        assert message["id"] not in done
        if message["type"] == "complete":
            done.add(message["id"])
            continue
        seen[message["id"]].append(message["payload"]["data"]["count"])
    assert all(numbers == list(range(1, 21)) for numbers in seen.values())


async def test_a_slow_query_delays_no_other_operation(ready: Socket) -> None:
    gate = uuid4().hex
    await ready.subscribe("slow", f'{{ wait(gate: "{gate}") }}')
    assert await ready.query(HELLO) == {"hello": "world"}
    await ready.subscribe("open", f'mutation {{ open(gate: "{gate}") }}')
    received = [await ready.receive() for _ in range(4)]
    of_slow = [message for message in received if message["id"] == "slow"]
    assert [message["type"] for message in of_slow] == ["next", "complete"]
    assert of_slow[0]["payload"] == {"data": {"wait": gate}}


async def test_one_operation_too_many_is_an_error_of_that_operation(ready: Socket) -> None:
    for number in range(100):
        await ready.subscribe(str(number), 'subscription { ticks(gate: "shut") }')
        await ready.next(str(number))
    await ready.subscribe("last", HELLO)
    [error] = await ready.error("last")
    assert error["extensions"]["code"] == "TOO_MANY_OPERATIONS"
    await ready.complete("0")
    assert await ready.query(HELLO) == {"hello": "world"}


async def test_defer_gives_a_complete_result_or_an_error(ready: Socket) -> None:
    await ready.subscribe("1", "{ hello inner { ... @defer { late } } }")
    message = await ready.receive()
    assert message["id"] == "1"
    if message["type"] == "next":
        assert message["payload"]["data"]["inner"] == {"late": "late"}
        return await ready.completed("1")
    assert message["type"] == "error"
    await ready.is_silent()
    return None


# Errors of one operation


@pytest.mark.parametrize(
    ("query", "payload"),
    [
        ("", {}),
        ("   ", {}),
        ("# nothing", {}),
        ("{", {}),
        ("{ hello }}", {}),
        ("subscription {", {}),
        (f'{{ echo(text: "{LONE_SURROGATE}', {}),
        ("{ unknown }", {}),
        ("{ hello { more } }", {}),
        ("{ echo }", {}),
        ("subscription { unknown }", {}),
        ("subscription { count(to: 1) other: count(to: 1) }", {}),
        ("fragment F on Query { hello }", {}),
        ("type Query { hello: String }", {}),
        ("query A { hello } query B { hello }", {}),
        ("query A { hello }", {"operationName": "B"}),
        ("query A { hello }", {"operationName": ""}),
        ("subscription A { count(to: 1) }", {"operationName": "B"}),
        ("query A { hello } query A { hello }", {"operationName": "A"}),
        (COUNT, {}),
        (COUNT, {"variables": {"to": None}}),
        (COUNT, {"variables": {"to": "three"}}),
        (COUNT, {"variables": {"to": 2**40}}),
        ("query ($text: String!) { echo(text: $text) }", {"variables": {"text": {"a": 1}}}),
        ("query ($text: String!) { echo(text: $text) }", {}),
        ("query ($text: Unknown) { echo(text: $text) }", {}),
        ("subscription { refused }", {}),
        ('subscription { numbers(name: "no topic") { value } }', {}),
        ('subscription { numbers(name: "a", after: "no cursor") { value } }', {}),
        ('subscription { numbers(name: "a") { value } }', {"extensions": {"after": 1}}),
        ('subscription { numbers(name: "a") { value } }', {"extensions": {"after": "x"}}),
    ],
    ids=shown,
)
async def test_an_operation_that_can_not_run_is_an_error_and_the_socket_stays_open(
    ready: Socket, query: str, payload: dict[str, Any]
) -> None:
    await ready.subscribe("1", query, **payload)
    await ready.error("1")
    await ready.is_silent()
    # The id is free again, and no `complete` of the failed operation follows.
    await ready.subscribe("1", HELLO)
    assert await ready.next("1") == {"data": {"hello": "world"}}
    await ready.completed("1")


@pytest.mark.parametrize(
    "opening", ["{ hello ", "{", "[", "{ echo(text: {a: ", "query ($a: [", "("]
)
async def test_a_query_nested_ten_thousand_deep_is_an_error(ready: Socket, opening: str) -> None:
    await ready.subscribe("1", opening * 10_000)
    await ready.error("1")
    await ready.is_silent()


async def test_a_well_formed_query_nested_ten_thousand_deep_is_an_error(ready: Socket) -> None:
    await ready.subscribe("1", "{ a" * 10_000 + " }" * 10_000)
    await ready.error("1")
    await ready.is_silent()


async def test_a_subscription_nested_ten_thousand_deep_is_an_error(ready: Socket) -> None:
    await ready.subscribe("1", "subscription " + "{ count" * 10_000 + " }" * 10_000)
    await ready.error("1")
    await ready.is_silent()


async def test_a_stream_that_breaks_ends_with_an_error_and_no_complete(ready: Socket) -> None:
    await ready.subscribe("1", "subscription { breaks }")
    assert await ready.next("1") == {"data": {"breaks": 1}}
    await ready.error("1")
    await ready.is_silent()


# Ids


@pytest.mark.parametrize(
    "document", ['subscription { ticks(gate: "shut") }', '{ wait(gate: "shut") }']
)
@pytest.mark.parametrize("id_", ["1", "é" * 100, LONE_SURROGATE, LONGEST_ID], ids=shown)
async def test_an_id_in_use_closes_with_4409(ready: Socket, document: str, id_: str) -> None:
    await ready.subscribe(id_, document)
    await ready.is_silent() if "wait" in document else await ready.next(id_)
    await ready.subscribe(id_, HELLO)
    await assert_closed(ready, 4409)


async def test_an_id_in_use_closes_with_4409_whatever_it_is_used_for(ready: Socket) -> None:
    await ready.subscribe("1", '{ wait(gate: "shut") }')
    await ready.subscribe("1", "{")
    await assert_closed(ready, 4409)


async def test_an_id_is_free_after_the_server_completed_it(ready: Socket) -> None:
    for _ in range(3):
        await ready.subscribe("1", COUNT, variables={"to": 1})
        await ready.next("1")
        await ready.completed("1")


async def test_an_id_is_free_after_the_client_completed_it(ready: Socket) -> None:
    for _ in range(3):
        await ready.subscribe("1", 'subscription { ticks(gate: "shut") }')
        await ready.next("1")
        await ready.complete("1")
    await ready.is_silent()


async def test_an_id_that_is_reused_at_once_gets_only_its_new_operation(ready: Socket) -> None:
    await ready.subscribe("1", '{ wait(gate: "shut") }')
    await ready.complete("1")
    await ready.subscribe("1", COUNT, variables={"to": 2})
    assert await ready.next("1") == {"data": {"count": 1}}
    assert await ready.next("1") == {"data": {"count": 2}}
    await ready.completed("1")


@pytest.mark.parametrize("id_", [" ", "é", LONE_SURROGATE, "__proto__", "0", LONGEST_ID], ids=shown)
async def test_any_string_of_256_characters_is_an_id(ready: Socket, id_: str) -> None:
    await ready.subscribe(id_, HELLO)
    assert await ready.next(id_) == {"data": {"hello": "world"}}
    await ready.completed(id_)


@pytest.mark.parametrize("type_", ["subscribe", "complete"])
@pytest.mark.parametrize("id_", [None, "", *NOT_STRINGS], ids=shown)
async def test_an_id_that_is_not_a_string_or_empty_closes_with_4400(
    ready: Socket, type_: str, id_: Any
) -> None:
    await ready.send({"id": id_, "type": type_, "payload": {"query": HELLO}})
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("type_", ["subscribe", "complete"])
async def test_a_missing_id_closes_with_4400(ready: Socket, type_: str) -> None:
    await ready.send({"type": type_, "payload": {"query": HELLO}})
    await assert_closed(ready, 4400)


# complete


async def test_complete_ends_the_stream_at_its_source(ready: Socket) -> None:
    gate = uuid4().hex
    await ready.subscribe("1", f'subscription {{ ticks(gate: "{gate}") }}')
    await ready.next("1")
    await ready.complete("1")
    await wait_until(lambda: has_ended(ready, gate))
    assert await ready.query(f'mutation {{ open(gate: "{gate}") }}') == {"open": True}
    await ready.is_silent()


async def test_a_query_that_the_client_completed_sends_no_result(ready: Socket) -> None:
    gate = uuid4().hex
    await ready.subscribe("1", f'{{ wait(gate: "{gate}") }}')
    await ready.is_silent()
    await ready.complete("1")
    assert await ready.query(f'mutation {{ open(gate: "{gate}") }}') == {"open": True}
    await wait_until(lambda: has_ended(ready, gate))
    await ready.is_silent()


async def test_closing_the_socket_ends_its_operations_at_their_source(
    server: Server, ready: Socket
) -> None:
    gate = uuid4().hex
    async with open_socket(server.ws) as other:
        await other.init()
        await other.subscribe("1", f'subscription {{ ticks(gate: "{gate}") }}')
        await other.next("1")
    await wait_until(lambda: has_ended(ready, gate))


async def has_ended(socket: Socket, gate: str) -> bool:
    return bool((await socket.query(f'{{ ended(gate: "{gate}") }}'))["ended"])


async def test_complete_of_an_unknown_id_is_ignored(ready: Socket) -> None:
    await ready.complete("unknown")
    await ready.is_silent()


async def test_complete_before_init_is_ignored(socket: Socket) -> None:
    await socket.complete("unknown")
    await socket.init()


async def test_complete_is_ignored_after_the_operation_ended(ready: Socket) -> None:
    await ready.subscribe("1", HELLO)
    await ready.next("1")
    await ready.completed("1")
    await ready.complete("1")
    await ready.complete("1")
    await ready.is_silent()


# Invalid messages


@pytest.mark.parametrize("message", NOT_OBJECTS, ids=shown)
@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_message_that_is_not_an_object_closes_with_4400(
    socket: Socket, message: Any, acknowledged: bool
) -> None:
    if acknowledged:
        await socket.init()
    await socket.send(message)
    await assert_closed(socket, 4400)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        '{"type":',
        '{"type":"ping"',
        "{'type':'ping'}",
        '{"type":"ping",}',
        '{"type":"ping"} {"type":"ping"}',
        "ping",
        "undefined",
        "NaN",
        '{"type":"ping","payload":{"a":NaN}}',
        '{"type":"ping","payload":{"a":-Infinity}}',
        '{"type":"ping","payload":{"a":"\x00"}}',
        "\x00",
        "\ufeff{}",
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"type":' * 100_000,
        '{"type":"ping","payload":' + '{"a":' * 100_000 + "1" + "}" * 100_001,
    ],
    ids=shown,
)
async def test_a_text_that_is_not_json_closes_with_4400(ready: Socket, text: str) -> None:
    await ready.raw(text)
    await assert_closed(ready, 4400)


async def test_a_number_of_five_thousand_digits_closes_with_4400(ready: Socket) -> None:
    await ready.raw('{"type":"ping","payload":{"n":' + "9" * 5000 + "}}")
    await assert_closed(ready, 4400)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b'{"type":"ping"}', b'{"type":"connection_init"}', b"\xff" * 1000]
)
@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_binary_message_closes_with_4400(
    socket: Socket, data: bytes, acknowledged: bool
) -> None:
    if acknowledged:
        await socket.init()
    await socket.raw(data)
    await assert_closed(socket, 4400)


@pytest.mark.parametrize(
    "type_",
    [
        None,
        "",
        *NOT_STRINGS,
        "unknown",
        "PING",
        "ping ",
        "start",
        "connection_terminate",
        "connection_ack",
        "next",
        "error",
        "__class__",
        LONE_SURROGATE,
        "é" * 40,
        "é" * 100,
        "😀" * 31,
        "a" + "😀" * 31,
        LONG,
    ],
    ids=shown,
)
async def test_an_unknown_type_closes_with_4400(ready: Socket, type_: Any) -> None:
    await ready.send({"id": "1", "type": type_, "payload": {"query": HELLO}})
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("message", [{}, {"id": "1"}, {"Type": "ping"}], ids=shown)
async def test_a_missing_type_closes_with_4400(ready: Socket, message: Any) -> None:
    await ready.send(message)
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("payload", NOT_OBJECTS, ids=shown)
async def test_subscribe_with_a_payload_that_is_not_an_object_closes_with_4400(
    ready: Socket, payload: Any
) -> None:
    await ready.send({"id": "1", "type": "subscribe", "payload": payload})
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("query", [None, *NOT_STRINGS], ids=shown)
async def test_a_query_that_is_not_a_string_closes_with_4400(ready: Socket, query: Any) -> None:
    await ready.subscribe("1", query)
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("message", [{}, {"payload": {}}, {"payload": {"variables": {}}}])
async def test_subscribe_without_a_query_closes_with_4400(ready: Socket, message: Any) -> None:
    await ready.send({"id": "1", "type": "subscribe", **message})
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("member", ["variables", "extensions"])
@pytest.mark.parametrize("value", NOT_OBJECTS_OR_NULL, ids=shown)
async def test_variables_or_extensions_that_are_no_object_close_with_4400(
    ready: Socket, member: str, value: Any
) -> None:
    await ready.subscribe("1", HELLO, **{member: value})
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("name", NOT_STRINGS, ids=shown)
async def test_an_operation_name_that_is_not_a_string_closes_with_4400(
    ready: Socket, name: Any
) -> None:
    await ready.subscribe("1", HELLO, operationName=name)
    await assert_closed(ready, 4400)


@pytest.mark.parametrize("text", ["x" * (2 * 2**20 + 1), "é" * (2**20 + 1), "x" * (17 * 2**20)])
async def test_a_message_over_the_limit_closes_with_1009(ready: Socket, text: str) -> None:
    await ready.raw(text)
    close = await ready.closed()
    assert close.code == 1009


async def test_a_message_at_the_limit_is_taken(ready: Socket) -> None:
    empty = json.dumps({"type": "ping", "payload": {"x": ""}})
    filling = "x" * (2 * 2**20 - len(empty))
    await ready.send({"type": "ping", "payload": {"x": filling}})
    assert (await ready.receive())["payload"] == {"x": filling}


# What the application does


async def test_an_answer_with_a_lone_surrogate_reaches_the_client(ready: Socket) -> None:
    await ready.subscribe(
        "1", "query ($text: String!) { echo(text: $text) }", variables={"text": LONE_SURROGATE}
    )
    assert await ready.next("1") == {"data": {"echo": LONE_SURROGATE}}
    await ready.completed("1")


# What is not logged


@pytest.mark.parametrize("wrong", [{"query": ""}, {"query": HELLO, "operationName": "Missing"}])
async def test_a_request_that_is_the_clients_mistake_leaves_no_traceback_in_the_log(
    ready: Socket, server: Server, wrong: dict[str, Any]
) -> None:
    before = server.log.count("Traceback")
    await ready.send({"id": "1", "type": "subscribe", "payload": wrong})
    [error] = await ready.error("1")
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert server.log.count("Traceback") == before
