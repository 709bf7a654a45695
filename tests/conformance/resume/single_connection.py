"""A client of the single connection mode of GraphQL over SSE."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx

from tests.conformance.resume.results import Failure, Results, expect, within
from tests.conformance.resume.streams import EVENT_STREAM, Block, Events, reading

STREAM_HEADER = "x-graphql-event-stream-token"


class SharedEvents(Events):
    """A reserved stream, which carries the events of several operations."""

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self.operations: dict[str, Results] = {}

    def take(self, block: Block) -> None:
        self.blocks.append(block)
        try:
            data = json.loads(block.get("data", ""))
        except ValueError:
            return
        operation = self.operations.get(data.get("id", ""))
        if operation is not None and block.get("event") == "next":
            operation.push(data.get("payload"))
        elif operation is not None and block.get("event") == "complete":
            operation.end()


class SharedStream:
    """A reserved stream that is open."""

    def __init__(self, http: httpx.AsyncClient, url: str, token: str, events: SharedEvents) -> None:
        self.events = events
        self._http, self._url = http, url
        self._headers = {STREAM_HEADER: token}

    async def subscribe(self, payload: Mapping[str, Any], *, id_: str | None = None) -> Results:
        """Start an operation, with a random UUID or the given id."""
        id_ = id_ or str(uuid4())
        results = self.events.operations[id_] = Results(self.events.patience)
        extensions = {**payload.get("extensions", {}), "operationId": id_}
        body = {**payload, "extensions": extensions}
        async with within(self.events.patience, "an answer to the POST"):
            answer = await self._http.post(self._url, json=body, headers=self._headers)
        expect(answer.status_code == 202, "202 for an operation on the stream", _told(answer))
        return results


@asynccontextmanager
async def shared_stream(
    http: httpx.AsyncClient, url: str, patience: float
) -> AsyncIterator[SharedStream]:
    """Reserve a stream and open it. It is cut at the end."""
    async with within(patience, "an answer to the PUT"):
        reserved = await http.put(url)
    if reserved.status_code != 201:
        raise Failure("201 and a token for PUT", _told(reserved))
    headers = {STREAM_HEADER: reserved.text, "accept": EVENT_STREAM}
    request = http.build_request("GET", url, headers=headers, timeout=None)
    events = SharedEvents(patience)
    async with reading(http, request, events, EVENT_STREAM):
        yield SharedStream(http, url, reserved.text, events)


def _told(answer: httpx.Response) -> str:
    return f"{answer.status_code}: {answer.text[:200]}"
