"""Streams send what a shared execution has encoded, in the bytes that encoding it again gives."""

import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest
from graphql import GraphQLError
from strawberry.types import ExecutionResult

from gqlnotify import Cursor, GraphQLRouter
from gqlnotify.execution import EncodedResult
from gqlnotify.http.encoded_part import Cut, EncodedPart
from gqlnotify.http.stream_formats import WRAPPERS, MultipartSubscription, ServerSentEvents
from gqlnotify.protocol.frames import SharedBody
from tests.applications import ALL_PROTOCOLS, EVENT_STREAM, STREAMS, http, stream_of
from tests.message_app import MESSAGE_TEXTS, MESSAGES, Message, MessageApp
from tests.waiting import wait_until

BODY = {"query": MESSAGE_TEXTS}
PAYLOAD: dict[str, Any] = {
    "data": {"text": 'é "payload":{} \u2028', "numbers": [1.0, 1e300, -0.0, 2**60], "none": None},
    "extensions": {"cursor": "7-9"},
}


def compact(data: object) -> str:
    return json.dumps(data, separators=(",", ":"))


def spaced(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


def in_order(data: object) -> str:
    return json.dumps(data, sort_keys=True)


def padded(data: object) -> str:
    return f"  {compact(data)} \n"


def indented(data: object) -> str:
    return json.dumps(data, indent=1)


def signed(data: object) -> str:
    return compact({**data, "server": 1} if isinstance(data, dict) else data)


def enveloped(data: object) -> str:
    return compact({"body": data})


def encoded(encode: Callable[[object], str], payload: Mapping[str, Any]) -> EncodedResult:
    return EncodedResult(Cursor(7, 9), SharedBody(encode({"type": "next", "payload": payload})))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=["sse", "multipart"])
@pytest.mark.parametrize("encode", [compact, spaced, in_order])
def test_a_part_has_the_bytes_that_its_encoder_gives(
    encode: Callable[[object], str], wrap: Callable[[object], object]
) -> None:
    cut = Cut.learn(encode, wrap)
    assert cut is not None
    assert cut.part_of(encoded(encode, PAYLOAD)) == EncodedPart(encode(wrap(PAYLOAD)), Cursor(7, 9))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=["sse", "multipart"])
@pytest.mark.parametrize("encode", [padded, indented, signed, enveloped])
def test_nothing_is_cut_from_what_depends_on_its_surroundings(
    encode: Callable[[object], str], wrap: Callable[[object], object]
) -> None:
    assert Cut.learn(encode, wrap) is None


def test_nothing_is_cut_from_a_message_with_other_surroundings() -> None:
    numbers = count(9)

    def numbered(data: object) -> str:
        if isinstance(data, dict) and "type" in data:
            data = {**data, "number": next(numbers)}
        return compact(data)

    cut = Cut.learn(numbered, WRAPPERS[ServerSentEvents])
    assert cut is not None
    part = cut.part_of(encoded(numbered, PAYLOAD))
    assert isinstance(part, ExecutionResult)
    assert part.data == PAYLOAD["data"]


@pytest.mark.parametrize(
    "result",
    [
        EncodedResult(Cursor(7, 9), None, [GraphQLError("it ends")]),
        EncodedResult(
            Cursor(7, 9),
            SharedBody(compact({"type": "next", "payload": {"data": None}})),
            [GraphQLError("a field failed", path=["field"])],
        ),
    ],
)
def test_errors_are_left_to_the_hooks(result: EncodedResult) -> None:
    cut = Cut.learn(compact, WRAPPERS[ServerSentEvents])
    assert cut is not None
    part = cut.part_of(result)
    assert isinstance(part, ExecutionResult)
    assert part.errors == [*result.errors]


class Counting(GraphQLRouter[Any, Any]):
    encoded: tuple[str, ...] = ()

    def encode_json(self, data: object) -> str:
        text = compact(data)
        self.encoded += (text,)
        return text


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_an_event_is_encoded_once_for_all_streams_and_never_parsed(
    kind: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(_self: SharedBody) -> Any:
        raise AssertionError("parsed what was encoded")

    monkeypatch.setattr(SharedBody, "message", parse)
    chat = MessageApp()
    router = Counting(chat.schema, topics=chat.topics, subscription_protocols=ALL_PROTOCOLS)
    async with http(router) as client, AsyncExitStack() as up:
        answers = [
            await up.enter_async_context(
                client.stream("POST", "/graphql", json=BODY, headers=headers)
            )
            for _ in range(5)
        ]
        await wait_until(lambda: subscribers(chat) == len(answers))
        await chat.topics.publish(MESSAGES, Message(text="to all"))
        for answer in answers:
            [got] = [await anext(stream_of(answer, kind))]
            assert got["data"] == {"messages": {"text": "to all"}}
            assert got["extensions"]["cursor"]
        assert len([text for text in router.encoded if "to all" in text]) == 1


def subscribers(chat: MessageApp) -> int:
    return sum(chat.topics.readers.values())


class Marking(GraphQLRouter[Any, Any]):
    async def process_result(self, request: Any, result: Any) -> Any:
        return {**await super().process_result(request, result), "marked": True}


class MarkingText(GraphQLRouter[Any, Any]):
    def encode_json_string(self, data: Any) -> str:
        marked = data if "payload" in data or not data else {**data, "marked": True}
        return super().encode_json_string(marked)


class MarkingJson(GraphQLRouter[Any, Any]):
    def encode_json(self, data: object) -> str:
        return compact({**data, "marked": True} if isinstance(data, dict) else data)


class MarkingFormat(ServerSentEvents):
    def encode_next(self, response: Any, encode_json: Callable[[object], str]) -> str:
        return super().encode_next({**response, "marked": True}, encode_json)  # type: ignore[arg-type]


class MarkingStream(GraphQLRouter[Any, Any]):
    stream_transport_classes_by_protocol = {  # noqa: RUF012
        "graphql-sse": MarkingFormat,
        "multipart-subscription": MultipartSubscription,
    }


@pytest.mark.processes
@pytest.mark.parametrize("router", [Marking, MarkingText, MarkingJson, MarkingStream])
async def test_what_an_application_overrides_shapes_the_events_of_a_shared_execution(
    router: type[GraphQLRouter[Any, Any]],
) -> None:
    chat = MessageApp()
    overriding = router(chat.schema, topics=chat.topics, subscription_protocols=ALL_PROTOCOLS)
    async with (
        http(overriding) as client,
        client.stream("POST", "/graphql", json=BODY, headers=EVENT_STREAM) as answer,
    ):
        await wait_until(lambda: subscribers(chat) == 1)
        await chat.topics.publish(MESSAGES, Message(text="hello"))
        got = await anext(stream_of(answer, "sse"))
    assert got["data"] == {"messages": {"text": "hello"}}
    assert got["marked"] is True
