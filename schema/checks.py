"""Checks of arguments. Each error names the argument and the rule."""

import json
from collections.abc import Iterable
from typing import Any

from gqlnotify import errors

MAX_PAGE = 200
MAX_NAME = 200
MAX_DESCRIPTION = 10_000
MAX_ROOM_NAME = 60
MAX_MESSAGE = 2000
MAX_PAYLOAD_BYTES = 64 * 1024
# An event with more than 200 levels can't be read again. A notification adds a few levels.
MAX_PAYLOAD_DEPTH = 100


def check_storable(argument: str, text: str) -> str:
    """Return `text` if every database can store it and UTF-8 can encode it.

    Raises:
        BadUserInput: it contains a NUL or a lone surrogate.
    """
    # PostgreSQL refuses a NUL. JSON can express a lone surrogate ("\ud800"), UTF-8 can't.
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise errors.BadUserInput(f"{argument}: must contain neither NUL nor a lone surrogate")
    return text


def check_text(argument: str, text: str, *, least: int = 1, most: int = MAX_NAME) -> str:
    """Return `text` if it can be stored and its length is from `least` to `most` characters.

    Raises:
        BadUserInput: it is too short or too long, or can't be stored.
    """
    if not least <= len(text) <= most:
        raise errors.BadUserInput(f"{argument}: must have {least} to {most} characters")
    return check_storable(argument, text)


def check_page(argument: str, count: int) -> int:
    """Return `count` if a page may contain that many items.

    Raises:
        BadUserInput: it is negative or larger than `MAX_PAGE`.
    """
    if not 0 <= count <= MAX_PAGE:
        raise errors.BadUserInput(f"{argument}: must be 0 to {MAX_PAGE}")
    return count


def check_payload(payload: Any) -> Any:
    """Return `payload` if it is JSON with at most 64 KiB and 100 levels.

    Raises:
        BadUserInput: it is larger or deeper, or contains NaN, Infinity or a lone surrogate.
    """
    # The depth first: `json.dumps` would fail with a RecursionError.
    if _depth(payload) > MAX_PAYLOAD_DEPTH:
        raise errors.BadUserInput(f"payload: must be at most {MAX_PAYLOAD_DEPTH} levels deep")
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError:
        raise errors.BadUserInput(
            "payload: must be JSON, without NaN, Infinity and lone surrogates"
        ) from None
    if size > MAX_PAYLOAD_BYTES:
        raise errors.BadUserInput(f"payload: must have at most {MAX_PAYLOAD_BYTES} bytes as JSON")
    return payload


def _depth(value: Any) -> int:
    """Return how deeply arrays and objects are nested."""
    # Level by level: a recursive function could overflow the stack.
    depth = 0
    level = [value]
    while level := [child for parent in level for child in _children(parent)]:
        depth += 1
    return depth


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
