"""Complete WebSocket frames of messages that differ only in their first bytes. Pure.

A `next` message consists of a prefix, `{"id":"..."`, and a body, which is the same for all members
of a group.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

TEXT = 0x81  # FIN and the opcode of a text frame: RFC 6455, section 5.2
BINARY = 0x82
COMPRESSED_TEXT = TEXT | 0x40  # RSV1: RFC 7692, section 6
# 4 KiB (RFC 7692, section 7.1.2.1). A larger window takes more memory for each connection.
WINDOW_BITS = 12
_LEVEL = 6
_MEMORY_LEVEL = 8
_END_OF_SYNC_FLUSH = b"\x00\x00\xff\xff"
_LONGEST_STORED_BLOCK = 0xFFFF
_LENGTHS_AT_ONCE = 8


class SharedBody:
    """The part that the messages to all members of a group share: everything after the id."""

    __slots__ = ("_deflated", "_text", "data")

    def __init__(self, message: str) -> None:
        """Take `message`, the text of a JSON object without the member `id`.

        Raises:
            UnicodeEncodeError: It contains characters that UTF-8 can't encode.
        """
        self.data = b"," + message.lstrip()[1:].encode()
        self._text: str | None = None
        self._deflated: bytes | None = None

    @property
    def text(self) -> str:
        """The body as text."""
        if self._text is None:
            self._text = self.data.decode()
        return self._text

    def message(self) -> dict[str, Any]:
        """Return the message, without the member `id`."""
        message: dict[str, Any] = json.loads(b"{" + self.data[1:])
        return message

    @property
    def deflated(self) -> bytes:
        """The body as DEFLATE blocks (RFC 1951) that do not refer to earlier data."""
        if self._deflated is None:
            self._deflated = _deflate(self.data)
        return self._deflated


class Prefix:
    """The start of an operation's messages, with its id. It is all that members do not share."""

    __slots__ = ("data",)

    def __init__(self, encoded_id: str) -> None:
        self.data = b'{"id":' + encoded_id.encode()

    @property
    def text(self) -> str:
        """The prefix as text."""
        return self.data.decode()

    @property
    def stored(self) -> bytes:
        """The prefix as an uncompressed DEFLATE block (RFC 1951, section 3.2.4).

        A body can follow any such block, so it is compressed only once for all members.
        """
        size = len(self.data)
        return b"\x00" + struct.pack("<HH", size, size ^ 0xFFFF) + self.data


class Batch:
    """Bodies for many members, and the parts of their frames that these members share."""

    __slots__ = ("_parts", "bodies", "largest")

    def __init__(self, bodies: Sequence[SharedBody]) -> None:
        self.bodies = bodies
        self.largest = max((len(body.data) for body in bodies), default=0)
        """The size of the largest body in bytes."""
        self._parts: dict[int, list[bytes]] = {}

    def frames(self, prefix: Prefix, compress_above: int = 0) -> bytes:
        """Return the frames of all messages that begin with `prefix`, joined.

        Bodies of `compress_above` bytes and more are compressed. 0 compresses none.
        """
        if 0 < compress_above <= self.largest:
            return b"".join([self._frame(prefix, body, compress_above) for body in self.bodies])
        # The parts depend only on the prefix's length, which most members share. So a member costs
        # one `join`.
        start = prefix.data
        parts = self._parts.get(len(start))
        if parts is None:
            if len(self._parts) == _LENGTHS_AT_ONCE:
                # Clients choose their ids, and a cache may keep this batch for a long time.
                self._parts.clear()
            parts = self._parts[len(start)] = self._around(len(start))
        return start.join(parts)

    def _around(self, size: int) -> list[bytes]:
        """Return the bytes before, between and after prefixes of `size` bytes."""
        headers = [_header(TEXT, size + len(body.data)) for body in self.bodies]
        bodies = [body.data for body in self.bodies]
        between = [body + header for body, header in zip(bodies, headers[1:], strict=False)]
        return [headers[0], *between, bodies[-1]]

    def _frame(self, prefix: Prefix, body: SharedBody, compress_above: int) -> bytes:
        if len(body.data) < compress_above:
            return spliced(prefix, body)
        return spliced_deflated(prefix, body)


def text_frame(payload: bytes) -> bytes:
    """Return an unmasked text frame: "A server MUST NOT mask" (RFC 6455, section 5.1)."""
    return _header(TEXT, len(payload)) + payload


def message_frame(message: str | bytes) -> bytes:
    """Return the frame of one message: a text frame for a `str`, else a binary frame."""
    if isinstance(message, str):
        return text_frame(message.encode())
    return _header(BINARY, len(message)) + message


def spliced(prefix: Prefix, body: SharedBody) -> bytes:
    """Return the text frame of the message that begins with `prefix` and ends with `body`."""
    start, end = prefix.data, body.data
    return b"%b%b%b" % (_header(TEXT, len(start) + len(end)), start, end)


def spliced_deflated(prefix: Prefix, body: SharedBody) -> bytes:
    """Return the same message as a compressed frame, or as a plain one if the id is too long."""
    if len(prefix.data) > _LONGEST_STORED_BLOCK:
        return spliced(prefix, body)
    start, end = prefix.stored, body.deflated
    return b"%b%b%b" % (_header(COMPRESSED_TEXT, len(start) + len(end)), start, end)


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY_LEVEL)
    deflated = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
    # RFC 7692, section 7.2.1: "Remove 4 octets (that are 0x00 0x00 0xff 0xff) from the tail".
    return deflated.removesuffix(_END_OF_SYNC_FLUSH)


def _header(first: int, size: int) -> bytes:
    # RFC 6455, section 5.2: the length takes 7 bits, or 2 or 8 further bytes.
    if size < 126:
        return bytes((first, size))
    if size < 0x10000:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)
