"""Subscriptions of the client gql that resume exactly once. Needs the extra `client`.

Unlike the rest of the library it runs in a client, and uses nothing of the server.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from gqlnotify.backoff import Backoff
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor
from gqlnotify.extras import needs

with needs("client", "gqlnotify.client"):
    from gql import Client, GraphQLRequest
    from gql.transport.exceptions import (
        TransportError,
        TransportProtocolError,
        TransportQueryError,
    )
    from graphql import ExecutionResult
    from websockets import Close, ConnectionClosed, InvalidStatus

logger = logging.getLogger("gqlnotify.client")

# After any other code the next attempt may succeed: at another server, or with a fresh token.
_FATAL_CLOSE_CODES = {1002, 1003, 1007, 1008, 1009, 1010, 1011, 4400, 4401, 4406, 4409, 4429, 4500}
_PASSING_ERRORS = {"BROKER_UNAVAILABLE", "TOPICS_CLOSED"}


async def resume(
    connect: Callable[[], Client],
    request: GraphQLRequest,
    *,
    after: str | None = None,
    on_expired: Callable[[], Awaitable[str | None]] | None = None,
    shortest_wait: float = 0.5,
    longest_wait: float = 30.0,
) -> AsyncGenerator[ExecutionResult]:
    """Subscribe, and yield each result once, in order, over as many connections as it takes.

    Each connection has a client of its own, so that it can have a fresh token::

        def connect() -> Client:
            payload = {"Authorization": f"Bearer {fresh_token()}"}
            return Client(transport=WebsocketsTransport(url, init_payload=payload))

        async with aclosing(resume(connect, request)) as results:
            async for result in results:
                ...

    A result has `data`, `errors` and `extensions`. Its cursor is `result.extensions["cursor"]`: a
    program that stores it can continue there after a restart.

    Args:
        connect: makes the client for one connection, with an asynchronous transport.
        request: the subscription. Its own `extensions` are sent too.
        after: the cursor to start after. By default the first result is the next event.
        on_expired: fetches the state again if the server no longer knows what was missed, and
            returns the cursor that came with it. If it returns None, the subscription continues
            with the next event.
        shortest_wait: seconds before the first new attempt.
        longest_wait: seconds between two attempts, at most.

    Raises:
        TransportError: the server refused the subscription or the connection, and another attempt
            would not change that. `TransportQueryError` has `errors`. Without `on_expired` one of
            them may be `CURSOR_EXPIRED`.
    """
    position = _Position(after)
    backoff = Backoff(shortest_wait, longest_wait)
    while True:
        try:
            async with aclosing(_results(connect(), position.put_into(request))) as results:
                async for result in results:
                    _raise_if_expired(result)
                    if position.take(result):
                        backoff.reset()
                        yield result
        except (OSError, TransportError, ConnectionClosed) as error:
            extensions = _extensions_of(error)
            if extensions.get("code") == CursorExpired.code and on_expired is not None:
                position.after = await on_expired() or extensions.get("cursor")
            elif not _may_pass(error):
                raise
            logger.info("The subscription was interrupted, and continues: %r", error)
        else:
            return
        await asyncio.sleep(backoff.next())


class _Position:
    """The last cursor that the caller knows."""

    def __init__(self, after: str | None) -> None:
        self.after = after

    def put_into(self, request: GraphQLRequest) -> GraphQLRequest:
        """Return the request that continues after this position."""
        if self.after is None:
            return request
        extensions = {**(request.extensions or {}), "after": self.after}
        return GraphQLRequest(request, extensions=extensions)

    def take(self, result: ExecutionResult) -> bool:
        """Move to the result. Returns False if the caller got it before."""
        text = (result.extensions or {}).get("cursor")
        if text is None:
            return True
        cursor = Cursor.parse(text)
        last = Cursor.parse(self.after) if self.after else None
        if last and cursor.epoch == last.epoch and cursor.seq <= last.seq:
            return False
        self.after = cursor
        return True


async def _results(client: Client, request: GraphQLRequest) -> AsyncGenerator[ExecutionResult]:
    """Yield the results of one connection.

    Not those of the session: it ends at a result with errors, of which the caller gets the data.
    """
    async with client as session, aclosing(session.transport.subscribe(request)) as results:
        async for result in results:
            yield result


def _raise_if_expired(result: ExecutionResult) -> None:
    """A server that resumed by itself reports an expired cursor in a result."""
    error = TransportQueryError("The cursor has expired", errors=result.errors)
    if _extensions_of(error).get("code") == CursorExpired.code:
        raise error


def _extensions_of(error: Exception) -> dict[str, Any]:
    """Return the extensions of the GraphQL error that the server sent, if it sent one."""
    errors = error.errors if isinstance(error, TransportQueryError) else None
    return errors[0].get("extensions") or {} if errors else {}


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed."""
    match error.__cause__ or error:
        case TransportQueryError() as refused:
            return _extensions_of(refused).get("code") in _PASSING_ERRORS
        case ConnectionClosed(rcvd=Close(code=code)):
            return code not in _FATAL_CLOSE_CODES
        case InvalidStatus(response=response):
            return response.status_code == 429 or response.status_code >= 500
        case TransportProtocolError():
            return False
    return True
