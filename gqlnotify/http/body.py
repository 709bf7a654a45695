"""Limits the size of a request's body."""

from fastapi import Request
from starlette.types import Message, Receive

from gqlnotify.connections.asgi_adapter import bound_receive
from gqlnotify.errors import BodyTooBig

_MOST_DIGITS = 18


def bound_body(request: Request, limit: int, setting: str) -> None:
    """Make reading more than `limit` bytes of the body raise `BodyTooBig`.

    Args:
        request: the request.
        limit: how many bytes the body may have.
        setting: the name of the setting with this limit, for the error.

    Raises:
        BodyTooBig: the `Content-Length` header announces more.
    """
    if _length(request.headers.get("content-length", "")) > limit:
        raise _too_big(limit, setting)
    bound_receive(request, _bounded(request.receive, limit, setting))


def _length(header: str) -> int:
    # A body in chunks has no length, and the server refuses a length that is not a number.
    return int(header[:_MOST_DIGITS]) if header[:_MOST_DIGITS].isdecimal() else 0


def _bounded(receive: Receive, limit: int, setting: str) -> Receive:
    left = limit

    async def receive_bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_big(limit, setting)
        return message

    return receive_bounded


def _too_big(limit: int, setting: str) -> BodyTooBig:
    return BodyTooBig(f"The body of this request may have {limit} bytes; {setting} sets the limit")
