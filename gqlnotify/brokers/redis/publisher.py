"""Publishes events in batches without listening to topics, with or without an event loop."""

import asyncio
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError

from gqlnotify.brokers.redis import scripts
from gqlnotify.brokers.redis.login import Login
from gqlnotify.brokers.redis.redis_adapter import renew_sync
from gqlnotify.brokers.redis.scripts import Call, Names
from gqlnotify.brokers.redis.topology import (
    ONE_SERVER,
    SHARDED,
    Servers,
    connect,
    connect_sync,
    is_misled,
    reaching,
    refused_unwritten,
)
from gqlnotify.brokers.redis.url import Address
from gqlnotify.event import Cursor
from gqlnotify.settings import Retention

Command = tuple[Any, ...]
Dialogue = Generator[list[Command], list[Any], list[Cursor]]


@dataclass(frozen=True, slots=True)
class Message:
    """An event to publish, checked and encoded."""

    topic: str
    payload: bytes
    event_id: str | None


def _was_not_run(reply: object) -> bool:
    return isinstance(reply, NoScriptError) or refused_unwritten(reply)


def _leading(messages: Sequence[Message]) -> set[int]:
    """Return the indices of the first message of each topic that has several messages.

    These messages send the whole script (EVAL), the others only its hash (EVALSHA). If all sent the
    hash, the server could refuse the first message of a topic and, because another publisher loads
    the script in between, accept the second. The second would then be appended first.
    """
    first: dict[str, int] = {}
    return {
        at for n, message in enumerate(messages) if (at := first.setdefault(message.topic, n)) < n
    }


class Sender:
    """Appends events to the histories of `RedisBroker`, from any process.

    Args:
        url: Where Redis is, in a form that `Address.parse` accepts.
        retention: The bounds of histories.
        timeout: Seconds after which a Redis that does not answer counts as unreachable.
        prefix: The first part of every key and channel.

    Raises:
        ValueError: The URL has another form.
    """

    def __init__(self, url: str, *, retention: Retention, timeout: float, prefix: str) -> None:
        self._address = Address.parse(url)
        self._retention = retention
        self._timeout = timeout
        self._names = Names(prefix, self._address.kind == "cluster")
        self._login = Login()
        self._servers: Servers | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: redis.Redis | redis.RedisCluster | None = None

    async def send(self, messages: Sequence[Message]) -> list[Cursor]:
        """Publish all messages in one batch, and return their cursors.

        Raises:
            BrokerUnavailable: Some were not published, or it is unknown whether they were.
        """
        with reaching(), self._login.attempt():
            return await self._send(messages)

    def send_sync(self, messages: Sequence[Message]) -> list[Cursor]:
        """Do the same as `send` without an event loop."""
        with reaching(), self._login.attempt():
            return self._send_sync(messages)

    async def aclose(self) -> None:
        """Close the connections of `send` and `send_sync`."""
        self.close()
        if self._servers is not None:
            await self._servers.aclose()
            self._servers = None

    def close(self) -> None:
        """Close the connections of `send_sync`."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def _send(self, messages: Sequence[Message]) -> list[Cursor]:
        dialogue = self._dialogue(messages)
        commands = next(dialogue)
        while True:
            began = time.monotonic()
            batch = self._connected().client.pipeline(transaction=False)
            for command in commands:
                batch.execute_command(*command)
            async with asyncio.timeout(self._timeout):
                replies = await batch.execute(raise_on_error=False)
            if misled := next(filter(is_misled, replies), None):
                await self._connected().renew(misled, began)
            try:
                commands = dialogue.send(replies)
            except StopIteration as end:
                return list(end.value)

    def _send_sync(self, messages: Sequence[Message]) -> list[Cursor]:
        dialogue = self._dialogue(messages)
        commands = next(dialogue)
        while True:
            batch = self._connected_sync().pipeline(transaction=False)
            for command in commands:
                batch.execute_command(*command)
            replies = batch.execute(raise_on_error=False)
            if any(map(is_misled, replies)):
                self._renew_sync()
            try:
                commands = dialogue.send(replies)
            except StopIteration as end:
                return list(end.value)

    def _dialogue(self, messages: Sequence[Message]) -> Dialogue:
        # A generator without I/O, so `send` and `send_sync` share the rules.
        calls = [self._call(message) for message in messages]
        leading = _leading(messages)
        replies = yield [
            call.eval if n in leading else call.evalsha for n, call in enumerate(calls)
        ]
        # A server that does not know the script, or is read-only, has executed nothing of what it
        # refused. So these messages can be sent again.
        refused = [n for n, reply in enumerate(replies) if _was_not_run(reply)]
        if refused:
            again = yield [calls[n].eval for n in refused]
            for n, reply in zip(refused, again, strict=True):
                replies[n] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [scripts.parse_cursor(reply) for reply in replies]

    def _call(self, message: Message) -> Call:
        command = SHARDED if self._address.kind == "cluster" else ONE_SERVER
        bounds = self._retention.of(message.topic)
        keys = self._names.script_keys(message.topic)
        return scripts.publish(keys, message.payload, message.event_id, bounds, command)

    def _connected(self) -> Servers:
        loop = asyncio.get_running_loop()
        if self._servers is None or self._loop is not loop:
            # Connections belong to an event loop. Those of another loop can't be closed from here.
            self._loop, self._servers = loop, connect(self._address, self._timeout)
        return self._servers

    def _renew_sync(self) -> None:
        if self._client is not None:
            renew_sync(self._client)

    def _connected_sync(self) -> "redis.Redis | redis.RedisCluster":
        if self._client is None:
            self._client = connect_sync(self._address, self._timeout)
        return self._client
