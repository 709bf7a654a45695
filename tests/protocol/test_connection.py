"""The quotations are from PROTOCOL.md of the npm package graphql-ws."""

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gqlnotify.errors import ConnectionClosed, InvalidMessage, PeerSilent
from gqlnotify.protocol.connection import (
    Acknowledge,
    Authenticate,
    Close,
    Command,
    Refuse,
    Renew,
    Send,
    ServerConnection,
    Start,
    State,
    Stop,
)
from gqlnotify.protocol.messages import Subscribe
from tests.protocol.test_messages import json_values, near_messages

QUERY = "subscription { a }"
ERRORS = [{"message": "no"}]


def init(**payload: Any) -> str:
    return json.dumps({"type": "connection_init", "payload": payload})


def subscribe(id_: str = "1", query: str = QUERY) -> str:
    return json.dumps({"type": "subscribe", "id": id_, "payload": {"query": query}})


def complete(id_: str = "1") -> str:
    return json.dumps({"type": "complete", "id": id_})


def message(type_: str, **members: Any) -> str:
    return json.dumps({"type": type_, **members})


def close_code(commands: list[Command]) -> int:
    [close] = commands
    assert isinstance(close, Close)
    return close.code


@pytest.fixture
def connected() -> ServerConnection:
    return ServerConnection()


@pytest.fixture
def initialising(connected: ServerConnection) -> ServerConnection:
    connected.receive_text(init())
    return connected


@pytest.fixture
def ready(initialising: ServerConnection) -> ServerConnection:
    initialising.acknowledge()
    return initialising


@pytest.fixture
def running(ready: ServerConnection) -> ServerConnection:
    """One whose operation "1" runs."""
    ready.receive_text(subscribe("1"))
    return ready


@pytest.fixture(params=["connected", "initialising", "ready", "running"])
def any_open(request: pytest.FixtureRequest) -> ServerConnection:
    connection: ServerConnection = request.getfixturevalue(request.param)
    return connection


# connection_init: "Indicates that the client wants to establish a connection within the existing
# socket."


def test_connection_init_asks_for_a_decision_on_its_payload(connected: ServerConnection) -> None:
    assert connected.receive_text(init(token="x")) == [Authenticate({"token": "x"})]
    assert connected.state is State.INITIALISING


@pytest.mark.parametrize(
    "text", ['{"type":"connection_init"}', message("connection_init", payload=None)]
)
def test_connection_init_without_a_payload_has_an_empty_one(
    connected: ServerConnection, text: str
) -> None:
    assert connected.receive_text(text) == [Authenticate({})]


def test_the_server_must_acknowledge_with_connection_ack(initialising: ServerConnection) -> None:
    assert initialising.acknowledge() == [Send({"type": "connection_ack"})]
    assert initialising.state is State.READY


def test_connection_ack_may_carry_a_payload(initialising: ServerConnection) -> None:
    ack = {"type": "connection_ack", "payload": {"a": 1}}
    assert initialising.acknowledge({"a": 1}) == [Send(ack)]


def test_a_connection_is_acknowledged_once_and_only_after_init(
    connected: ServerConnection,
) -> None:
    assert connected.acknowledge() == []
    assert connected.state is State.CONNECTED
    connected.receive_text(init())
    assert connected.acknowledge() != []
    assert connected.acknowledge() == []


def test_a_decision_after_the_end_is_dropped(initialising: ServerConnection) -> None:
    initialising.close(ConnectionClosed("gone"))

    assert initialising.acknowledge() == []
    assert initialising.state is State.CLOSED


@pytest.mark.parametrize("state", ["initialising", "ready", "running"])
def test_more_than_one_connection_init_at_any_given_time_closes_with_4429(
    request: pytest.FixtureRequest, state: str
) -> None:
    connection: ServerConnection = request.getfixturevalue(state)
    assert connection.receive_text(init()) == [Close(4429, "Too many initialisation requests")]


def test_no_connection_init_within_the_wait_timeout_closes_with_4408(
    connected: ServerConnection,
) -> None:
    assert connected.init_timeout() == [Close(4408, "Connection initialisation timeout")]
    assert connected.state is State.CLOSED


@pytest.mark.parametrize("state", ["initialising", "ready", "running"])
def test_a_connection_init_in_time_stops_the_wait_timeout(
    request: pytest.FixtureRequest, state: str
) -> None:
    connection: ServerConnection = request.getfixturevalue(state)
    assert connection.init_timeout() == []
    assert connection.state is not State.CLOSED


# ping, pong: "The Pong message must be sent in response to the Ping message as soon as possible."


def test_a_ping_is_answered_at_any_time_with_its_own_payload(any_open: ServerConnection) -> None:
    for payload in ({"a": [1, None]}, {}):
        pong = {"type": "pong", "payload": payload}
        assert any_open.receive_text(message("ping", payload=payload)) == [Send(pong)]


def test_a_ping_without_a_payload_is_answered_without_one(any_open: ServerConnection) -> None:
    assert any_open.receive_text(message("ping")) == [Send({"type": "pong"})]
    assert any_open.receive_text(message("ping", payload=None)) == [Send({"type": "pong"})]


def test_a_pong_can_be_sent_at_any_time_even_unasked(any_open: ServerConnection) -> None:
    state = any_open.state

    assert any_open.receive_text(message("pong", payload={"a": 1})) == []
    assert any_open.state is state


@pytest.mark.parametrize("key", ["authorization", "Authorization", "AUTHORIZATION"])
def test_a_ping_with_a_token_requests_a_renewal_and_its_pong_has_the_result(
    running: ServerConnection, key: str
) -> None:
    payload = {key: "Bearer fresh"}
    assert running.receive_text(message("ping", payload=payload)) == [Renew(payload)]
    outcome = {"renewed": True}
    assert running.renewed(outcome) == [Send({"type": "pong", "payload": outcome})]


def test_before_the_acknowledgement_a_ping_with_a_token_is_just_a_ping() -> None:
    connection = ServerConnection()
    payload = {"authorization": "Bearer fresh"}
    pong = Send({"type": "pong", "payload": payload})
    assert connection.receive_text(message("ping", payload=payload)) == [pong]
    connection.receive_text(init())
    assert connection.receive_text(message("ping", payload=payload)) == [pong]


def test_a_late_renewal_is_not_answered(running: ServerConnection) -> None:
    running.close(InvalidMessage("over"))
    assert running.renewed({"renewed": True}) == []


def test_the_server_may_ping_at_any_time(any_open: ServerConnection) -> None:
    assert any_open.ping() == [Send({"type": "ping"})]


# subscribe: "Executing operations is allowed only after the server has acknowledged the
# connection through the ConnectionAck message, if the connection is not acknowledged, the socket
# will be closed immediately with the event 4401: Unauthorized."


@pytest.mark.parametrize("state", ["connected", "initialising"])
def test_an_operation_before_the_acknowledgement_closes_with_4401(
    request: pytest.FixtureRequest, state: str
) -> None:
    connection: ServerConnection = request.getfixturevalue(state)
    assert connection.receive_text(subscribe()) == [Close(4401, "Unauthorized")]


def test_an_operation_is_started(ready: ServerConnection) -> None:
    assert ready.receive_text(subscribe("1")) == [Start(Subscribe("1", QUERY))]
    assert ready.active == {"1"}


def test_many_operations_run_at_once(ready: ServerConnection) -> None:
    for n in range(100):
        assert ready.receive_text(subscribe(str(n))) == [Start(Subscribe(str(n), QUERY))]
    assert len(ready.active) == 100


def test_an_id_of_an_active_operation_closes_with_4409(running: ServerConnection) -> None:
    assert running.receive_text(subscribe("1")) == [Close(4409, "Subscriber for 1 already exists")]


@pytest.mark.parametrize("id_", ["x" * 256, "é" * 200, "\ud800" * 50])
def test_the_reason_of_4409_fits_a_close_frame_however_long_the_id(
    ready: ServerConnection, id_: str
) -> None:
    ready.receive_text(subscribe(id_))
    [close] = ready.receive_text(subscribe(id_))

    assert isinstance(close, Close)
    assert close.code == 4409
    assert len(close.reason.encode()) <= 123


@pytest.mark.parametrize("end", ["client completes", "server completes", "error"])
def test_the_id_of_an_operation_that_ended_may_be_used_again(
    running: ServerConnection, end: str
) -> None:
    match end:
        case "client completes":
            running.receive_text(complete("1"))
        case "server completes":
            running.complete("1")
        case "error":
            running.error("1", ERRORS)

    assert running.receive_text(subscribe("1")) == [Start(Subscribe("1", QUERY))]


def test_an_operation_over_the_limit_gets_an_error_and_the_others_continue() -> None:
    connection = ServerConnection(max_operations=2)
    connection.receive_text(init())
    connection.acknowledge()
    for id_ in "12":
        connection.receive_text(subscribe(id_))

    [refusal] = connection.receive_text(subscribe("3"))
    assert isinstance(refusal, Refuse)
    assert (refusal.id, refusal.error.code) == ("3", "TOO_MANY_OPERATIONS")
    assert connection.active == {"1", "2"}

    connection.receive_text(complete("1"))
    assert connection.receive_text(subscribe("3")) == [Start(Subscribe("3", QUERY))]


def test_without_a_limit_there_is_none() -> None:
    connection = ServerConnection(max_operations=None)
    connection.receive_text(init())
    connection.acknowledge()
    for n in range(1000):
        connection.receive_text(subscribe(str(n)))

    assert len(connection.active) == 1000


# next, error, complete


def test_results_are_sent_under_the_operations_id(running: ServerConnection) -> None:
    result = {"data": {"a": 1}}
    expected = Send({"id": "1", "type": "next", "payload": result})

    assert running.next("1", result) == [expected]
    assert running.next("1", result) == [expected]


def test_an_error_terminates_the_operation_and_no_further_messages_will_be_sent(
    running: ServerConnection,
) -> None:
    assert running.error("1", ERRORS) == [Send({"id": "1", "type": "error", "payload": ERRORS})]
    assert_silent_about(running, "1")


def test_complete_of_the_server_ends_the_operation(running: ServerConnection) -> None:
    assert running.complete("1") == [Send({"id": "1", "type": "complete"})]
    assert_silent_about(running, "1")


def test_complete_of_the_client_stops_the_operation_and_is_not_answered(
    running: ServerConnection,
) -> None:
    assert running.receive_text(complete("1")) == [Stop("1")]
    assert_silent_about(running, "1")


def test_complete_for_an_ended_or_unknown_operation_is_no_error(any_open: ServerConnection) -> None:
    state = any_open.state

    assert any_open.receive_text(complete("never")) == []
    assert any_open.state is state


def test_the_end_of_one_operation_leaves_the_others(running: ServerConnection) -> None:
    running.receive_text(subscribe("2"))
    running.receive_text(complete("1"))

    assert running.active == {"2"}
    assert running.next("2", {}) != []


@pytest.mark.parametrize("state", ["connected", "initialising", "ready"])
def test_nothing_is_sent_for_an_operation_that_never_started(
    request: pytest.FixtureRequest, state: str
) -> None:
    assert_silent_about(request.getfixturevalue(state), "1")


# "Receiving a message of a type or format which is not specified in this document will result in
# an immediate socket closure with the event 4400".


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        "[]",
        "{}",
        '"x"',
        "null",
        message("start"),
        message("subscribe"),
        "[" * 100_000,
    ],
)
def test_an_invalid_message_closes_with_4400_at_any_time(
    any_open: ServerConnection, text: str
) -> None:
    assert close_code(any_open.receive_text(text)) == 4400


def test_a_binary_message_closes_with_4400_at_any_time(any_open: ServerConnection) -> None:
    assert close_code(any_open.receive_binary()) == 4400


def test_an_invalid_operation_closes_with_4400_even_before_the_acknowledgement(
    connected: ServerConnection,
) -> None:
    assert close_code(connected.receive_text(message("subscribe", id="", payload={}))) == 4400


def test_an_application_may_bring_its_own_decoder() -> None:
    connection = ServerConnection(decode=lambda text: {"type": text})

    assert connection.receive_text("ping") == [Send({"type": "pong"})]


# sizes


@pytest.mark.parametrize("character", ["x", "é", "€", "\U0001f600", "\ud800"])
def test_a_message_over_the_limit_closes_with_1009_and_one_at_the_limit_does_not(
    character: str,
) -> None:
    size = len(character.encode("utf-8", "surrogatepass"))
    frame = message("ping", payload={"a": ""})
    limit = len(frame) + 100 * size

    def with_characters(count: int) -> str:
        return frame.replace('""', f'"{character * count}"')

    at_the_limit = ServerConnection(message_max_bytes=limit).receive_text(with_characters(100))
    assert isinstance(at_the_limit[0], Send)
    over_it = ServerConnection(message_max_bytes=limit).receive_text(with_characters(101))
    assert over_it == [Close(1009, f"A message has at most {limit} bytes")]


def test_the_size_of_a_message_is_counted_in_bytes() -> None:
    text = message("ping", payload={"a": "x" * 900})

    assert isinstance(ServerConnection(message_max_bytes=1000).receive_text(text)[0], Send)


# the end


def test_closing_reports_the_code_and_the_reason(any_open: ServerConnection) -> None:
    assert any_open.close(PeerSilent("No pong in time")) == [Close(1013, "No pong in time")]
    assert any_open.state is State.CLOSED
    assert any_open.active == frozenset()


def test_nothing_is_sent_after_the_end(any_open: ServerConnection) -> None:
    any_open.close(ConnectionClosed("gone"))

    assert any_open.close(ConnectionClosed("again")) == []
    assert any_open.receive_binary() == []
    assert any_open.init_timeout() == []
    assert any_open.acknowledge() == []
    assert any_open.ping() == []
    for text in (init(), subscribe(), complete(), message("ping"), "rubbish", ""):
        assert any_open.receive_text(text) == []
    assert_silent_about(any_open, "1")


def assert_silent_about(connection: ServerConnection, id_: str) -> None:
    assert connection.next(id_, {"data": None}) == []
    assert connection.error(id_, ERRORS) == []
    assert connection.complete(id_) == []


# anything at all, in any order

ids = st.sampled_from(["1", "2", "3", "é\ud800", "x" * 256])
payloads = st.none() | st.dictionaries(st.text(), json_values, max_size=2)
CLIENT_CAUSED = {4400, 4401, 4409, 4429, 1009}


class AnyConversation(RuleBasedStateMachine):
    """Says and does anything in any order, and holds every answer against a model."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = ServerConnection(max_operations=3, message_max_bytes=2000)
        self.state = State.CONNECTED
        self.running: set[str] = set()

    def check(self, commands: list[Command], *allowed: type[Command]) -> None:
        for command in commands:
            assert self.state is not State.CLOSED, f"After the end: {command}"
            assert isinstance(command, allowed), command
            match command:
                case Send(sent):
                    self.check_sent(dict(sent))
                case Authenticate(payload):
                    assert self.state is State.CONNECTED
                    assert isinstance(payload, dict)
                    self.state = State.INITIALISING
                case Start(operation):
                    assert self.state is State.READY
                    assert operation.id not in self.running
                    assert len(self.running) < 3
                    self.running.add(operation.id)
                case Stop(id_):
                    self.running.remove(id_)
                case Close(_, reason):
                    assert len(reason.encode()) <= 123
                    self.state = State.CLOSED
                    self.running.clear()

    def check_sent(self, sent: dict[str, Any]) -> None:
        json.dumps(sent)
        match sent:
            case {"type": "connection_ack", **rest}:
                assert self.state is State.INITIALISING
                assert rest.keys() <= {"payload"}
                self.state = State.READY
            case {"type": "ping" | "pong", **rest}:
                assert rest.keys() <= {"payload"}
            case {"type": "next", "id": id_, "payload": dict(), **rest}:
                assert not rest
                assert id_ in self.running
            case {"type": "error", "id": id_, "payload": [{"message": str()}, *_], **rest}:
                assert not rest
                # An operation that was never started may be refused, as the one too many is.
                if id_ in self.running:
                    self.running.remove(id_)
                else:
                    assert len(self.running) == 3
            case {"type": "complete", "id": id_, **rest}:
                assert not rest
                self.running.remove(id_)
            case _:
                raise AssertionError(f"Not in the protocol: {sent}")

    def receive(self, text: str) -> list[Command]:
        commands = self.connection.receive_text(text)
        assert len(commands) <= 1
        for command in commands:
            if isinstance(command, Close):
                assert command.code in CLIENT_CAUSED
        self.check(commands, Send, Authenticate, Start, Stop, Close)
        return commands

    @rule(text=st.text(st.characters()) | json_values.map(json.dumps))
    def say_anything(self, text: str) -> None:
        open_before = self.state is not State.CLOSED
        commands = self.receive(text)
        assert not open_before or close_code(commands) in {4400, 1009}

    @rule(near=near_messages)
    def say_something_near_the_protocol(self, near: dict[str, Any]) -> None:
        self.receive(json.dumps(near))

    @rule(payload=payloads)
    def initialise(self, payload: Any) -> None:
        before = self.state
        commands = self.receive(message("connection_init", payload=payload)[:2000])
        if before in {State.INITIALISING, State.READY}:
            assert close_code(commands) in {4429, 4400, 1009}

    @rule(id_=ids)
    def start(self, id_: str) -> None:
        before, running = self.state, set(self.running)
        commands = self.receive(subscribe(id_))
        if before in {State.CONNECTED, State.INITIALISING}:
            assert close_code(commands) == 4401
        elif before is State.READY and id_ in running:
            assert close_code(commands) == 4409
        elif before is State.READY:
            assert isinstance(commands[0], Start) is (len(running) < 3)

    @rule(id_=ids)
    def stop(self, id_: str) -> None:
        expected = [Stop(id_)] if id_ in self.running else []
        assert self.receive(complete(id_)) == expected

    @rule(payload=st.none() | st.just({}) | st.just({"a": [1]}))
    def ping_pong(self, payload: Any) -> None:
        pong = {"type": "pong"} if payload is None else {"type": "pong", "payload": payload}
        expected = [] if self.state is State.CLOSED else [Send(pong)]
        assert self.receive(message("ping", payload=payload)) == expected
        assert self.receive(message("pong", payload=payload)) == []

    @rule(size=st.integers(1900, 4000), character=st.sampled_from("xé€\U0001f600\ud800"))
    def say_much(self, size: int, character: str) -> None:
        text = message("ping", payload={"a": "?"}).replace("?", character * size)
        fits = len(text.encode("utf-8", "surrogatepass")) <= 2000
        open_before = self.state is not State.CLOSED
        commands = self.receive(text)
        assert not open_before or fits is isinstance(commands[0], Send)

    @rule()
    def say_it_in_binary(self) -> None:
        open_before = self.state is not State.CLOSED
        commands = self.connection.receive_binary()
        assert not open_before or close_code(commands) == 4400
        self.check(commands, Close)

    @rule()
    def wait_too_long(self) -> None:
        waiting = self.state is State.CONNECTED
        commands = self.connection.init_timeout()
        assert close_code(commands) == 4408 if waiting else commands == []
        self.check(commands, Close)

    @rule(payload=payloads)
    def acknowledge(self, payload: Any) -> None:
        self.check(self.connection.acknowledge(payload), Send)

    @rule()
    def ping(self) -> None:
        self.check([*self.connection.ping()], Send)

    @rule(id_=ids | st.text(), result=st.dictionaries(st.text(), json_values, max_size=2))
    def next(self, id_: str, result: dict[str, Any]) -> None:
        commands = self.connection.next(id_, result)
        assert bool(commands) is (id_ in self.running)
        self.check(commands, Send)

    @rule(id_=ids | st.text(), message=st.text())
    def error(self, id_: str, message: str) -> None:
        running = id_ in self.running
        commands = self.connection.error(id_, [{"message": message}])
        assert bool(commands) is running
        self.check(commands, Send)

    @rule(id_=ids | st.text())
    def complete(self, id_: str) -> None:
        running = id_ in self.running
        commands = self.connection.complete(id_)
        assert bool(commands) is running
        self.check(commands, Send)

    @rule(code=st.sampled_from([4403, 4401, 1013, 1012, 4500]), reason=st.text(st.characters()))
    def close(self, code: int, reason: str) -> None:
        self.check(self.connection.close(ConnectionClosed(reason, code=code)), Close)

    @invariant()
    def the_model_and_the_connection_agree(self) -> None:
        assert self.connection.state is self.state
        assert self.connection.active == self.running


TestAnyConversation = AnyConversation.TestCase
TestAnyConversation.settings = settings(stateful_step_count=30)


def test_the_pong_of_a_ping_without_cursors_is_told_because_the_next_question_waits_for_it(
    running: ServerConnection,
) -> None:
    [ping] = running.ping({})
    pong = message("pong", payload=ping.message["payload"])

    assert running.receive_text(pong) == [Acknowledge({})]
    assert running.receive_text(pong) == []
