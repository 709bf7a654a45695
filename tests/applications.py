"""An ordinary application, and clients for it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import strawberry
from fastapi import FastAPI
from strawberry.file_uploads import Upload
from strawberry.types import Info

from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.servers import running
from tests.waiting import PATIENCE

EVENT_STREAM = {"accept": "text/event-stream"}
MULTIPART = {"accept": "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json"}
SSE = "graphql-sse"
HELLO = "{ hello }"
COUNT = "subscription { count(to: 2) }"


def secret() -> int:
    raise ValueError("a secret of the house")


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"

    @strawberry.field
    def fails(self) -> str | None:
        raise ValueError("a secret of the house")

    @strawberry.field
    def nested(self) -> "Query":
        return Query()

    @strawberry.field
    def greeting(self, info: Info) -> str:
        context = info.context
        return str(context["greeting"] if isinstance(context, dict) else context.greeting)

    @strawberry.field
    def root(self, info: Info) -> str:
        return str(info.root_value)

    @strawberry.field
    def parameters(self, info: Info) -> str:
        context = info.context
        found = context if isinstance(context, dict) else vars(context)
        return json.dumps(found.get("connection_params"))

    @strawberry.field
    def with_cookie(self, info: Info) -> bool:
        info.context["response"].set_cookie("flavour", "vanilla")
        info.context["response"].status_code = 202
        return True


@strawberry.type
class Mutation:
    @strawberry.mutation
    def echo(self, text: str) -> str:
        return text

    @strawberry.mutation
    async def read(self, file: Upload) -> str:
        content: bytes = await file.read()  # type: ignore[attr-defined]
        await file.close()  # type: ignore[attr-defined]
        return content.decode()


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    @strawberry.subscription
    async def greetings(self, info: Info) -> AsyncIterator[str]:
        context = info.context
        yield str(context["greeting"] if isinstance(context, dict) else context.greeting)

    @strawberry.subscription
    async def fails(self) -> AsyncIterator[int]:
        yield secret()

    @strawberry.subscription
    async def nested(self) -> AsyncIterator[Query]:
        yield Query()


def schema_of(**options: Any) -> strawberry.Schema:
    return strawberry.Schema(Query, Mutation, Subscription, **options)


def application(router: Any, **options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.include_router(router, prefix="/graphql")
    return app


def client_of(origin: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://{origin}", trust_env=False, timeout=PATIENCE, verify=False, **options
    )


@asynccontextmanager
async def http(router: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with running(application(router)) as origin, client_of(origin, **options) as client:
        yield client


@asynccontextmanager
async def websocket(router: Any, **options: Any) -> AsyncIterator[Socket]:
    async with (
        running(application(router)) as origin,
        open_socket(f"ws://{origin}", **options) as socket,
    ):
        yield socket


async def post(client: httpx.AsyncClient, query: str, **options: Any) -> Any:
    answer = await client.post("/graphql", json={"query": query}, **options)
    return answer.json()


def events(text: str) -> list[tuple[str, Any]]:
    """Read server-sent events: the name of each and its JSON."""
    found: list[tuple[str, Any]] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((fields["event"], json.loads(fields.get("data") or "null")))
    return found


def parts(text: str) -> list[Any]:
    """Read the payloads of a multipart subscription."""
    bodies = (part.partition("\r\n\r\n")[2] for part in text.split("--graphql"))
    payloads = (json.loads(body) for body in bodies if body.strip())
    return [payload["payload"] for payload in payloads if payload]


async def stream_of(answer: httpx.Response, kind: str) -> AsyncIterator[Any]:
    """Yield the results of a stream as they arrive."""
    async for line in answer.aiter_lines():
        if kind == "sse" and line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))
        if kind == "multipart" and line.startswith('{"payload"'):
            yield json.loads(line)["payload"]


STREAMS = [("sse", EVENT_STREAM), ("multipart", MULTIPART)]
ALL_PROTOCOLS = ["graphql-transport-ws", SSE, "multipart-subscription"]


def bearer(**options: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(**options)}"}
