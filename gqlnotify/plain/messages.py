"""The messages of a plain WebSocket.

JSON has no bytes, so a binary payload is the JSON object `{"$binary": "<base64>"}`. A socket that
speaks `gqlnotify.binary` gets an event with such an object as a binary frame: the JSON of the
event, with the number of bytes in place of the base64, a line feed, and the bytes.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gqlnotify.auth import find_token
from gqlnotify.codec.codec import Unfit, plain_json
from gqlnotify.errors import BadUserInput, EventUnreadable, NotifyError
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.protocol.messages import strict_json
from gqlnotify.topics.projection import Projection

BINARY = "$binary"
_MARK = json.dumps(BINARY).encode()
# Enough for the sockets of a topic, which get an event at about the same time.
_RECENT = 16


def ready(cursor: Cursor) -> str:
    """Return the message that the subscription has begun at `cursor`."""
    return _json({"type": "ready", "cursor": cursor})


def published(cursor: Cursor) -> str:
    """Return the answer to a message of the client that was published."""
    return _json({"type": "published", "cursor": cursor})


def refused(error: NotifyError) -> str:
    """Return the message of an error, which ends nothing."""
    return _json({"type": "error", "message": error.message, **error.extensions})


@lru_cache(maxsize=_RECENT)
def text_of(event: Event) -> str:
    """Return the message of an event as JSON. The payload is passed on as it was published.

    If the payload is not JSON, this is the message of an error.
    """
    # Of any type: that of the topic is not known here.
    value = Projection(Topic(event.topic, object)).apply(event)
    if isinstance(value, EventUnreadable):
        return refused(value)
    return _event(event.cursor, event.payload.decode())


@lru_cache(maxsize=_RECENT)
def frame_of(event: Event) -> str | bytes:
    """Return the message of an event: bytes if it contains a binary payload, else text."""
    if _MARK not in event.payload:
        return text_of(event)
    try:
        value = json.loads(event.payload)
    except ValueError:
        return text_of(event)
    holders = [value, *value.values()] if isinstance(value, dict) else []
    found = [(holder, content) for holder in holders if (content := _bytes_in(holder)) is not None]
    if len(found) != 1:
        return text_of(event)
    [(holder, content)] = found
    holder[BINARY] = len(content)
    return _event(event.cursor, _json(value)).encode() + b"\n" + content


def parse(message: str | bytes, *, only_json: bool) -> Any:
    """Return the value that a message of the client stands for.

    Args:
        message: the message. Bytes are a binary payload.
        only_json: whether a text must be JSON. Otherwise a text that is not JSON is a string.

    Raises:
        BadUserInput: the text is not JSON, can't be published, or is a token.
    """
    if isinstance(message, bytes):
        return {BINARY: b64encode(message).decode()}
    try:
        value = strict_json(message)
    except ValueError:
        if only_json:
            raise BadUserInput("This is not JSON, which the subprotocol requires") from None
        return message
    if _is_token(value):
        raise BadUserInput("This socket has its token already, so this message was not published")
    try:
        # One level deeper, as `publish_json` publishes it.
        plain_json([value])
    except Unfit as error:
        raise BadUserInput(f"This JSON can't be published: {error}") from None
    return value


def token_in(message: str | bytes) -> Any:
    """Return the token in the first message of a client; None if there is none."""
    if isinstance(message, bytes):
        return None
    try:
        value = strict_json(message)
    except ValueError:
        return None
    return find_token(value) if isinstance(value, dict) else None


def _is_token(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and find_token(value) is not None


def _bytes_in(value: Any) -> bytes | None:
    if not (isinstance(value, dict) and len(value) == 1 and isinstance(value.get(BINARY), str)):
        return None
    try:
        return b64decode(value[BINARY], validate=True)
    except ValueError:
        return None


def _event(cursor: Cursor, data: str) -> str:
    return f'{{"type":"event","cursor":"{cursor}","data":{data}}}'


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
