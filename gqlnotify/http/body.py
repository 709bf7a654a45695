"""How much of a request's body is read."""

from fastapi import Request
from starlette.types import Message, Receive

from gqlnotify.connections.asgi_adapter import bound_receive
from gqlnotify.errors import BodyTooBig

_MOST_DIGITS = 18


def bound_body(request: Request, limit: int, setting: str) -> None:
    """Raise a `BodyTooBig` for reading more than `limit` bytes of the body; `setting` says so.

    Raises:
        BodyTooBig: the request says by itself that it has more.
    """
    if _length(request.headers.get("content-length", "")) > limit:
        raise _too_big(limit, setting)
    bound_receive(request, _bounded(request.receive, limit, setting))


def _length(header: str) -> int:
    # A body in chunks has none, and what is no number is for the server to refuse.
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
