"""What a check works with: streams of events to publish to, and clients of each transport."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import httpx

from tests.conformance.resume.contract import Contract, Viewer, filled
from tests.conformance.resume.results import Failure, Result, Results, Skip, expect
from tests.conformance.resume.single_connection import SharedStream, shared_stream
from tests.conformance.resume.streams import EVENT_STREAM, MULTIPART, Events, Parts, reading
from tests.conformance.resume.websocket import Socket, open_socket

_FIRST_PAUSE = 0.05


class Topic:
    """A stream of events. If the contract has a topic, each check has one of its own."""

    def __init__(self, kit: "Kit") -> None:
        self._kit = kit
        self._name = f"conformance-{uuid4().hex[:12]}"
        self._published: list[str] = []

    def payload(self, after: Any = None, **more: Any) -> dict[str, Any]:
        """Return the request of a subscription."""
        request = filled(self._kit.contract.subscription, topic=self._name)
        return {**request, **({} if after is None else {"extensions": {"after": after}}), **more}

    async def publish(self) -> str:
        """Publish an event, and return the value by which it is recognised."""
        value = f"{self._name}-{len(self._published) + 1}"
        self._published.append(value)
        await self._kit.publish(topic=self._name, value=value)
        return value

    def told(self, results: Iterable[Result]) -> list[str]:
        """Return what each result says: the event's value, or the code of an error.

        That of an event that the client may have received before begins with `again: `.
        """
        return [self._told(each) for each in results]

    def _told(self, result: Result) -> str:
        value = next((text for text in result.values if text in self._published), None)
        if value is None:
            return ", ".join(map(str, result.codes)) or f"no event: {dict(result.payload)}"
        return f"again: {value}" if result.is_marked else value

    async def heard(self, results: Results) -> Result:
        """Publish until `results` gets it: the subscription has begun. Return the last result."""
        begun = asyncio.Event()
        probing = asyncio.create_task(self._probe(begun))
        try:
            await results.next("the first event of a new subscription")
        finally:
            # Not cancelled: a request that is cut off is an error in the log of the server.
            begun.set()
            await probing
        return (await results.until(await self.publish()))[-1]

    async def _probe(self, begun: asyncio.Event) -> None:
        pause = _FIRST_PAUSE
        while not begun.is_set():
            await self.publish()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await begun.wait()
            pause *= 2


class Kit:
    """The server under test, and how to reach it.

    Args:
        contract: what is known about the server.
        patience: how long anything may take, in seconds.
        settle: how long the server may take to notice that a connection was cut, in seconds.
    """

    def __init__(self, contract: Contract, *, patience: float = 10, settle: float = 0.1) -> None:
        self.contract = contract
        self.patience = patience
        self.settle = settle
        self.http = _client(contract, patience)
        # With a pool of its own: each request looks at all connections of its pool.
        self._publishing = _client(contract, patience)
        self._urls = itertools.cycle(contract.urls)
        self._expired: asyncio.Task[tuple[Topic, str]] | None = None
        self._stop_together = asyncio.Barrier(1)
        self._stopping: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._expired is not None:
            self._expired.cancel()
            await asyncio.wait([self._expired])
        await self.http.aclose()
        await self._publishing.aclose()

    def topic(self) -> Topic:
        """Return a stream of events for one check."""
        return Topic(self)

    async def publish(self, **values: str) -> None:
        """Publish one event.

        Raises:
            Failure: the server refuses it.
        """
        request = filled(self.contract.publish, **values)
        if "query" in request:
            request = {"json": request}
        url = urljoin(next(self._urls), request.pop("url", ""))
        method = request.pop("method", "POST")
        try:
            answer = await self._publishing.request(method, url, **request)
        except httpx.HTTPError as error:
            raise Failure("an answer to the request that publishes", repr(error)) from None
        accepted = answer.is_success and not _errors_of(answer)
        expect(accepted, "an event is published", f"{answer.status_code}: {answer.text[:300]}")

    def socket(self, viewer: Viewer | None = None) -> AbstractAsyncContextManager[Socket]:
        """Connect over WebSocket."""
        return open_socket(next(self._urls), viewer or self.contract.viewer, self.patience)

    def share_stop(self, checks: int) -> None:
        """Let so many checks stop the server together: it can be stopped only once."""
        self._stop_together = asyncio.Barrier(max(checks, 1))

    async def stop(self) -> None:
        """Ask the server to stop, with the contract's command, once all who want it are ready.

        Raises:
            Skip: the contract has no command.
        """
        if self.contract.stop is None:
            raise Skip("the contract has no `stop`")
        with suppress(asyncio.BrokenBarrierError, TimeoutError):
            # The others may have failed.
            async with asyncio.timeout(self.patience):
                await self._stop_together.wait()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self.contract.stop))
        await asyncio.shield(self._stopping)

    async def _stop(self, command: Sequence[str]) -> None:
        process = await asyncio.create_subprocess_exec(*command)
        expect(await process.wait() == 0, "the command `stop` succeeds", command)

    async def pause(self) -> None:
        """Give the server time to notice that a connection has ended."""
        await asyncio.sleep(self.settle)

    @asynccontextmanager
    async def events(
        self, payload: Mapping[str, Any], *, last_event_id: str | None = None
    ) -> AsyncIterator[Events]:
        """Subscribe as an `EventSource` does: with GET. Extensions are sent with POST."""
        headers = {"accept": EVENT_STREAM}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        if "extensions" in payload:
            request = self._request("POST", headers, json=payload)
        else:
            request = self._request("GET", headers, params=_parameters(payload))
        events = Events(self.patience)
        async with reading(self.http, request, events, EVENT_STREAM):
            yield events

    @asynccontextmanager
    async def parts(self, payload: Mapping[str, Any]) -> AsyncIterator[Parts]:
        """Subscribe with a multipart response."""
        request = self._request("POST", {"accept": MULTIPART}, json=payload)
        parts = Parts(self.patience)
        async with reading(self.http, request, parts, "multipart/mixed"):
            yield parts

    def shared_stream(self) -> AbstractAsyncContextManager[SharedStream]:
        """Reserve a stream of the single connection mode, and open it."""
        return shared_stream(self.http, next(self._urls), self.patience)

    def subscribed(
        self, transport: str, payload: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[Results]:
        """Subscribe over any transport."""
        ways: Mapping[str, Callable[..., AbstractAsyncContextManager[Results]]] = {
            "websocket": self._over_websocket,
            "sse": self.events,
            "multipart": self.parts,
            "single-connection": self._over_shared_stream,
        }
        return ways[transport](payload)

    @asynccontextmanager
    async def _over_websocket(self, payload: Mapping[str, Any]) -> AsyncIterator[Results]:
        async with self.socket() as socket:
            yield await socket.subscribe(payload)

    @asynccontextmanager
    async def _over_shared_stream(self, payload: Mapping[str, Any]) -> AsyncIterator[Results]:
        async with self.shared_stream() as stream:
            yield await stream.subscribe(payload)

    async def expired(self) -> tuple[Topic, str]:
        """Return a cursor that has expired, and its topic. All checks share one.

        Raises:
            Skip: the contract does not say how many events that takes.
        """
        if self.contract.expires_after is None:
            raise Skip("the contract has no `expires_after`")
        if self._expired is None:
            self._expired = asyncio.create_task(self._expire(self.contract.expires_after))
        return await asyncio.shield(self._expired)

    async def _expire(self, count: int) -> tuple[Topic, str]:
        topic = self.topic()
        transport = min(self.contract.transports)
        async with self.subscribed(transport, topic.payload()) as results:
            old = await topic.heard(results)
        for _ in range(count):
            await topic.publish()
        return topic, str(old.cursor)

    def _request(self, method: str, headers: Mapping[str, str], **content: Any) -> httpx.Request:
        timeout = httpx.Timeout(self.patience, read=None)
        return self.http.build_request(
            method, next(self._urls), headers=headers, timeout=timeout, **content
        )


def _client(contract: Contract, patience: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers=contract.viewer.headers,
        timeout=patience,
        trust_env=False,
        # Most servers close idle connections after 5 seconds or later.
        limits=httpx.Limits(max_connections=None, keepalive_expiry=1),
        # Each client would read all certificate authorities.
        verify=any(url.startswith("https:") for url in contract.urls),
    )


def _errors_of(answer: httpx.Response) -> Any:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body.get("errors") if isinstance(body, dict) else None


def _parameters(payload: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in payload.items()
    }
