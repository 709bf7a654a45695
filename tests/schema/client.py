"""A client of a task service that listens on a Unix socket. It shares no code with gqlnotify."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import httpx
from jose import jwt
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.typing import Subprotocol

import schema
from tests.waiting import SCALE

SECRET = "a secret for the tests of the task service"
PATIENCE = 60.0 * SCALE
OPERATIONS = Path(schema.__file__).parent / "operations"


def operation(name: str) -> str:
    return (OPERATIONS / f"{name}.graphql").read_text()


def token(
    subject: str = "alice",
    *,
    subscribe: Sequence[str] = ("*",),
    publish: Sequence[str] = ("*",),
    presence: Sequence[str] = ("*",),
) -> str:
    rights = {"subscribe": subscribe, "publish": publish, "presence": presence}
    claims = {
        "sub": subject,
        "exp": int(time()) + 3600,
        "topics": {action: list(patterns) for action, patterns in rights.items()},
    }
    return str(jwt.encode(claims, SECRET, algorithm="HS256"))


class Stream:
    """One subscription on a socket of its own."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def message(self) -> dict[str, Any]:
        while True:
            async with asyncio.timeout(PATIENCE):
                message: dict[str, Any] = json.loads(await self._socket.recv())
            if message["type"] != "ping":
                return message
            await self._socket.send(json.dumps({"type": "pong"}))

    async def result(self) -> dict[str, Any]:
        message = await self.message()
        assert message["type"] == "next", message
        result: dict[str, Any] = message["payload"]
        return result

    async def event(self) -> dict[str, Any]:
        """Return what the one field of the next result holds."""
        result = await self.result()
        assert "errors" not in result, result
        [event] = result["data"].values()
        assert isinstance(event, dict)
        return event

    async def events(self, count: int) -> list[dict[str, Any]]:
        return [await self.event() for _ in range(count)]

    async def error(self) -> dict[str, Any]:
        message = await self.message()
        assert message["type"] == "error", message
        error: dict[str, Any] = message["payload"][0]
        return error


class Client:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def post(
        self, document: str, variables: dict[str, Any] | None = None, *, bearer: str | None = None
    ) -> dict[str, Any]:
        # Not httpx's own encoder: it refuses NaN and lone surrogates, and some tests send them.
        body = json.dumps({"query": document, "variables": variables or {}})
        headers = {
            "Authorization": f"Bearer {bearer or token()}",
            "Content-Type": "application/json",
        }
        async with self._http() as http:
            answer = await http.post("/graphql", content=body, headers=headers)
        result: dict[str, Any] = answer.json()
        return result

    async def data(
        self, name: str, variables: dict[str, Any] | None = None, *, bearer: str | None = None
    ) -> Any:
        """Return what the one field of a stored operation answers."""
        result = await self.post(operation(name), variables, bearer=bearer)
        assert "errors" not in result, result
        [value] = result["data"].values()
        return value

    async def error(
        self, name: str, variables: dict[str, Any] | None = None, *, bearer: str | None = None
    ) -> dict[str, Any]:
        result = await self.post(operation(name), variables, bearer=bearer)
        [error] = result["errors"]
        assert isinstance(error, dict)
        return error

    async def create(self, title: str = "a task", **rest: Any) -> dict[str, Any]:
        created: dict[str, Any] = await self.data("createTask", {"input": {"title": title, **rest}})
        return created

    async def update(self, task_id: str, **changes: Any) -> dict[str, Any]:
        updated: dict[str, Any] = await self.data("updateTask", {"id": task_id, "input": changes})
        return updated

    @asynccontextmanager
    async def lines(
        self, name: str, variables: dict[str, Any], *, accept: str
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Stream a subscription over HTTP, and yield the lines of the answer."""
        body = {"query": operation(name), "variables": variables}
        headers = {"Authorization": f"Bearer {token()}", "Accept": accept}
        async with (
            self._http() as http,
            http.stream("POST", "/graphql", json=body, headers=headers) as answer,
        ):
            assert answer.status_code == 200
            yield answer.aiter_lines()

    def _http(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket), verify=False)
        return httpx.AsyncClient(transport=transport, base_url="http://tasks", timeout=PATIENCE)

    @asynccontextmanager
    async def stream(
        self, name: str, variables: dict[str, Any] | None = None, *, bearer: str | None = None
    ) -> AsyncIterator[Stream]:
        async with unix_connect(
            str(self._socket),
            "ws://tasks/graphql",
            subprotocols=[Subprotocol("graphql-transport-ws")],
        ) as socket:
            headers = {"Authorization": f"Bearer {bearer or token()}"}
            await socket.send(json.dumps({"type": "connection_init", "payload": headers}))
            stream = Stream(socket)
            assert (await stream.message())["type"] == "connection_ack"
            payload = {"query": operation(name), "variables": variables or {}}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
            yield stream
