"""A part of a stream that was encoded already, with the message of a shared execution.

The message of an event, `{"type":"next","payload":...}`, is encoded once for all subscribers. A
stream over HTTP sends the payload alone, or in another object. `Cut` takes the payload's text out
of the message, so that nothing is parsed or encoded again for each client.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from strawberry.types import ExecutionResult

from gqlnotify.event import Cursor
from gqlnotify.execution import EncodedResult
from gqlnotify.protocol.frames import SharedBody

_EXAMPLE = {"data": {"field": 1}, "extensions": {"cursor": "1-1"}}


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """The JSON text of one part. Strawberry passes it on in place of a result and its response."""

    text: str
    cursor: Cursor
    errors: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Cuts the payload out of a message, and puts around it what a stream has there."""

    _start: bytes
    _end: bytes
    _before: str
    _after: str

    @classmethod
    def learn(
        cls, encode: Callable[[object], str], wrap: Callable[[object], object]
    ) -> "Cut | None":
        """Encode an example, to learn what `encode` writes around a payload.

        Args:
            encode: the encoder of messages and parts, which may be an application's own.
            wrap: returns the object that a stream sends for a payload.

        Returns:
            None if the encoder writes a payload differently inside another object: it indents, or
            adds a member to each object that it gets.
        """
        payload = encode(_EXAMPLE)
        message = SharedBody(encode({"type": "next", "payload": _EXAMPLE})).data
        start, in_message, end = message.partition(payload.encode())
        before, in_part, after = encode(wrap(_EXAMPLE)).partition(payload)
        return cls(start, end, before, after) if in_message and in_part else None

    def part_of(self, encoded: EncodedResult) -> EncodedPart | ExecutionResult:
        """Return the part for one event, or the result for Strawberry to encode."""
        # Strawberry passes errors to a hook that may change the response.
        if encoded.body is None or encoded.errors:
            return encoded.result()
        message = encoded.body.data
        if not (message.startswith(self._start) and message.endswith(self._end)):
            # An encoder may add something else each time, such as the time of day.
            return encoded.result()
        payload = message[len(self._start) : len(message) - len(self._end)].decode()
        return EncodedPart(f"{self._before}{payload}{self._after}", encoded.cursor)
