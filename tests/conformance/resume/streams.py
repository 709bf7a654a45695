"""Clients of subscriptions over HTTP: Server-Sent Events, and multipart."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from tests.conformance.resume.results import Failure, Results, codes_of, within

Block = Mapping[str, str]
EVENT_STREAM = "text/event-stream"
MULTIPART = "multipart/mixed;subscriptionSpec=1.0, application/json"


class Events(Results):
    """A stream of Server-Sent Events.

    Attributes:
        blocks: the fields of each block that is not a comment, in order.
    """

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self.blocks: list[Block] = []
        self._arrived = asyncio.Event()

    async def first_block(self) -> Block:
        """Return the first block."""
        async with within(self.patience, "a first block"):
            while not self.blocks:
                self._arrived.clear()
                await self._arrived.wait()
        return self.blocks[0]

    def id_of(self, number: int) -> str | None:
        """Return the `id` of the block with the result of this number."""
        nexts = [block for block in self.blocks if block.get("event") == "next"]
        return nexts[number].get("id")

    async def read(self, answer: httpx.Response) -> None:
        """Read to the end of the response."""
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            fields.pop("", None)
            if fields:
                self.take(fields)
            fields = {}

    def take(self, block: Block) -> None:
        """Note one block."""
        self.blocks.append(block)
        self._arrived.set()
        if block.get("event") == "next":
            self.push(json.loads(block["data"]))
        elif block.get("event") == "complete":
            self.end()


class Parts(Results):
    """A multipart response."""

    async def read(self, answer: httpx.Response) -> None:
        """Read to the end of the response."""
        boundary = _boundary_of(answer.headers["content-type"])
        waiting = ""
        async for text in answer.aiter_text():
            *parts, waiting = (waiting + text).split(f"--{boundary}")
            for part in parts:
                self._take(part)
            if waiting.startswith("--"):
                self.end()

    def _take(self, part: str) -> None:
        _, _, body = part.replace("\r\n", "\n").partition("\n\n")
        message = json.loads(body) if body.strip() else {}
        if message.get("payload"):
            self.push(message["payload"])
        if message.get("errors"):
            self.end(message["errors"])


def _boundary_of(content_type: str) -> str:
    for parameter in content_type.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "boundary":
            return value.strip('"')
    raise Failure("a boundary in the header Content-Type", content_type)


@asynccontextmanager
async def reading(
    http: httpx.AsyncClient, request: httpx.Request, results: Events | Parts, media_type: str
) -> AsyncIterator[None]:
    """Send `request` and read its response into `results`. It is cut at the end."""
    async with within(results.patience, "a response"):
        answer = await http.send(request, stream=True)
    try:
        if not answer.headers.get("content-type", "").startswith(media_type):
            await answer.aread()
            _note_refusal(answer, results)
            yield
            return
        task = asyncio.create_task(_read(answer, results))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
    finally:
        await answer.aclose()


async def _read(answer: httpx.Response, results: Events | Parts) -> None:
    try:
        await results.read(answer)
    except (httpx.HTTPError, ValueError) as error:
        results.end(({"message": repr(error)},))
        return
    if not results.has_ended:
        results.end(({"message": "the response has ended"},))


def _note_refusal(answer: httpx.Response, results: Results) -> None:
    """End with the errors of a response that is not a stream."""
    try:
        errors = answer.json()["errors"]
        codes_of(errors)
    except (ValueError, KeyError, TypeError):
        errors = [{"message": f"{answer.status_code}: {answer.text[:200]}"}]
    results.end(errors)
