"""Messages are parsed, checked and written as the protocol says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify.errors import InvalidMessage
from gqlnotify.protocol import messages
from gqlnotify.protocol.messages import (
    Complete,
    ConnectionInit,
    Message,
    Ping,
    Pong,
    Subscribe,
    parse,
    strict_json,
)

QUERY = "subscription { a }"


def text(**message: Any) -> str:
    return json.dumps(message)


def assert_invalid(text: str) -> str:
    with pytest.raises(InvalidMessage) as refusal:
        parse(text)
    assert refusal.value.close_code == 4400
    return refusal.value.reason


# what a client may say

SUBSCRIBE_IN_FULL = {
    "query": QUERY,
    "operationName": "A",
    "variables": {"x": [1, None]},
    "extensions": {"after": "1-2"},
}
IN_FULL = Subscribe("1", QUERY, "A", {"x": [1, None]}, {"after": "1-2"})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "connection_init"}, ConnectionInit({})),
        ({"type": "connection_init", "payload": None}, ConnectionInit({})),
        ({"type": "connection_init", "payload": {}}, ConnectionInit({})),
        ({"type": "connection_init", "payload": {"a": 1}}, ConnectionInit({"a": 1})),
        ({"type": "ping"}, Ping(None)),
        ({"type": "ping", "payload": None}, Ping(None)),
        ({"type": "ping", "payload": {}}, Ping({})),
        ({"type": "ping", "payload": {"a": [1]}}, Ping({"a": [1]})),
        ({"type": "pong"}, Pong(None)),
        ({"type": "pong", "payload": {"a": [1]}}, Pong({"a": [1]})),
        ({"type": "complete", "id": "1"}, Complete("1")),
        ({"type": "complete", "id": "1", "payload": 5}, Complete("1")),
        ({"type": "subscribe", "id": "1", "payload": {"query": QUERY}}, Subscribe("1", QUERY)),
        ({"type": "subscribe", "id": " ", "payload": {"query": ""}}, Subscribe(" ", "")),
        (
            {
                "type": "subscribe",
                "id": "1",
                "payload": {
                    "query": QUERY,
                    "operationName": None,
                    "variables": None,
                    "extensions": None,
                },
            },
            Subscribe("1", QUERY),
        ),
        ({"type": "subscribe", "id": "1", "payload": SUBSCRIBE_IN_FULL}, IN_FULL),
        ({"type": "ping", "id": 5, "extra": True}, Ping(None)),
    ],
)
def test_a_message_of_the_protocol_is_read(message: dict[str, Any], expected: Message) -> None:
    assert parse(json.dumps(message)) == expected


def test_an_id_has_a_bound_as_each_result_repeats_it() -> None:
    assert parse(text(type="complete", id="x" * 256)) == Complete("x" * 256)
    with pytest.raises(InvalidMessage, match="at most 256 characters"):
        parse(text(type="complete", id="x" * 257))


# "Receiving a message of a type or format which is not specified in this document will result in
# an immediate socket closure with the event 4400: <error-message>."


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        " ",
        "{",
        "hello",
        "{'type': 'ping'}",
        '{"type": "ping"} {}',
        '{"type": "ping",}',
        '{"type": "ping", "payload": {"a": NaN}}',
        '{"type": "ping", "payload": {"a": Infinity}}',
        '{"type": "ping", "payload": {"a": -Infinity}}',
        '{"type": "ping", "payload": {"a": -1e400}}',
        '{"type": "ping", "payload": {"a": ' + "9" * 5000 + "}}",
        "\0",
        "\ufeff{}",
    ],
)
def test_a_message_that_is_not_json_closes_with_4400(rubbish: str) -> None:
    assert "JSON" in assert_invalid(rubbish)


@pytest.mark.parametrize("bracket", ["[", '{"a":', '{"type":"ping","payload":{"a":'])
def test_json_nested_100_000_deep_is_4400(bracket: str) -> None:
    assert_invalid(bracket * 100_000)


@pytest.mark.parametrize("message", ["null", "true", "5", '"ping"', "[]", '["ping"]', "1e4"])
def test_a_message_that_is_not_an_object_is_4400(message: str) -> None:
    assert "object" in assert_invalid(message)


@pytest.mark.parametrize("type_", [None, 5, True, [], {}, ["ping"], {"ping": 1}])
def test_a_type_that_is_not_a_string_is_4400(type_: Any) -> None:
    assert "'type'" in assert_invalid(text(type=type_))
    assert "'type'" in assert_invalid("{}")


@pytest.mark.parametrize(
    "type_", ["", "PING", "ping ", "start", "stop", "connection_ack", "next", "error", "ka"]
)
def test_a_type_that_no_client_may_send_is_4400_and_named(type_: str) -> None:
    assert repr(type_) in assert_invalid(text(type=type_))


@pytest.mark.parametrize("type_", ["x" * 41, "x" * 1_000_000, "é" * 100, "\ud800" * 100])
def test_a_long_unknown_type_is_not_repeated(type_: str) -> None:
    assert assert_invalid(text(type=type_)) == "Unknown message type"


@pytest.mark.parametrize("type_", ["connection_init", "ping", "pong"])
@pytest.mark.parametrize("payload", [[], "text", 5, 0, False, True, ""])
def test_a_payload_that_is_not_an_object_is_4400(type_: str, payload: Any) -> None:
    assert "'payload'" in assert_invalid(text(type=type_, payload=payload))


@pytest.mark.parametrize("id_", [None, "", 5, 0, True, [], {}, ["1"], {"a": "1"}])
def test_an_id_that_is_not_a_string_or_empty_is_4400(id_: Any) -> None:
    assert "'id'" in assert_invalid(text(type="subscribe", id=id_, payload={"query": QUERY}))
    assert "'id'" in assert_invalid(text(type="complete", id=id_))


@pytest.mark.parametrize("type_", ["subscribe", "complete"])
def test_a_missing_id_is_4400(type_: str) -> None:
    assert "'id'" in assert_invalid(text(type=type_, payload={"query": QUERY}))


@pytest.mark.parametrize("payload", [None, [], "text", 5, False])
def test_a_subscribe_without_an_object_as_payload_is_4400(payload: Any) -> None:
    assert "'payload'" in assert_invalid(text(type="subscribe", id="1", payload=payload))
    assert "'payload'" in assert_invalid(text(type="subscribe", id="1"))


@pytest.mark.parametrize("query", [None, 5, [], {}, True])
def test_a_query_that_is_not_a_string_is_4400(query: Any) -> None:
    assert "'query'" in assert_invalid(text(type="subscribe", id="1", payload={"query": query}))
    assert "'query'" in assert_invalid(text(type="subscribe", id="1", payload={}))


@pytest.mark.parametrize("name", [5, 0, [], {}, False])
def test_an_operation_name_that_is_not_a_string_is_4400(name: Any) -> None:
    payload = {"query": QUERY, "operationName": name}
    assert "'operationName'" in assert_invalid(text(type="subscribe", id="1", payload=payload))


@pytest.mark.parametrize("member", ["variables", "extensions"])
@pytest.mark.parametrize("value", [5, 0, [], "text", "", False])
def test_variables_and_extensions_that_are_no_objects_are_4400(member: str, value: Any) -> None:
    payload = {"query": QUERY, member: value}
    assert f"'{member}'" in assert_invalid(text(type="subscribe", id="1", payload=payload))


def test_an_application_may_bring_its_own_decoder() -> None:
    assert parse("<ping/>", lambda _: {"type": "ping"}) == Ping()


@pytest.mark.parametrize("error", [ValueError("why"), RecursionError("too deep")])
def test_a_decoder_that_fails_is_4400(error: Exception) -> None:
    def decode(text: str) -> object:
        raise error

    with pytest.raises(InvalidMessage, match="JSON"):
        parse("{}", decode)


def test_bytes_are_decoded() -> None:
    assert strict_json(b'{"a": "\xc3\xa9"}') == {"a": "é"}
    with pytest.raises(ValueError, match="utf-8"):
        strict_json(b'"\xff"')


# what a server says


def test_the_messages_of_a_server_are_spelled_as_the_protocol_has_them() -> None:
    error = {"message": "no", "extensions": {"code": "FORBIDDEN"}}

    assert messages.connection_ack() == {"type": "connection_ack"}
    assert messages.connection_ack({"a": 1}) == {"type": "connection_ack", "payload": {"a": 1}}
    assert messages.ping() == {"type": "ping"}
    assert messages.ping({}) == {"type": "ping", "payload": {}}
    assert messages.pong() == {"type": "pong"}
    assert messages.pong({"a": 1}) == {"type": "pong", "payload": {"a": 1}}
    assert messages.next_("1", {"data": None}) == {
        "id": "1",
        "type": "next",
        "payload": {"data": None},
    }
    assert messages.error("1", [error]) == {"id": "1", "type": "error", "payload": [error]}
    assert messages.complete("1") == {"id": "1", "type": "complete"}


# anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)
near_messages = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["connection_init", "ping", "pong", "subscribe", "complete"])
        | json_values,
        "id": st.text() | json_values,
        "payload": st.fixed_dictionaries(
            {},
            optional={
                "query": st.text() | json_values,
                "operationName": st.text() | json_values,
                "variables": json_values,
                "extensions": json_values,
            },
        )
        | json_values,
    },
)


@given(st.text(st.characters()) | json_values.map(json.dumps) | near_messages.map(json.dumps))
def test_any_text_is_a_message_or_an_invalid_one(text: str) -> None:
    try:
        message = parse(text)
    except InvalidMessage:
        return
    assert isinstance(message, Message)
    if isinstance(message, Subscribe | Complete):
        assert isinstance(message.id, str)
        assert message.id
    if isinstance(message, Subscribe):
        assert isinstance(message.query, str)
        assert isinstance(message.operation_name, str | None)
        assert isinstance(message.variables, dict | None)
        assert isinstance(message.extensions, dict | None)
    if isinstance(message, Ping | Pong):
        assert isinstance(message.payload, dict | None)
    if isinstance(message, ConnectionInit):
        assert isinstance(message.payload, dict)
