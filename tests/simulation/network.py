"""TCP connections between two loops: bytes arrive in order, late, or not at all."""

from typing import Any, Protocol

from tests.simulation.world import SimulatedLoop, World

_BUFFERS = ((256 * 1024, 64 * 1024), (1500, 1000))
"""How much the kernels hold, and how much the sender's transport before it is full."""
_LEAST_GAP = 1e-7


class Receiver(Protocol):
    """The part of `asyncio.Protocol` that gets what arrives."""

    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> Any: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Link:
    """A connection. `latency` are the least and most seconds that data takes."""

    def __init__(self, world: World, latency: tuple[float, float], name: str) -> None:
        self.world, self.latency, self.name = world, latency, name
        self.in_flight, self.high_water = world.random.choice(_BUFFERS)
        # The delay of most connections hardly changes, so that short intervals stay short.
        if world.random.random() < 0.7:
            least = world.random.uniform(*latency)
            self.latency = (least, least + _LEAST_GAP)
        self.silent = False
        """Whether it is half-open: nothing arrives, and neither end notices."""
        self.loses = False
        """Whether what is on its way is lost."""
        self.ends: list[End] = []

    def connect(self, loop: SimulatedLoop, receiver: Receiver) -> "End":
        """Add an end."""
        end = End(self, loop, receiver)
        self.ends.append(end)
        return end

    def delay(self) -> float:
        return self.world.random.uniform(*self.latency)

    def abandon(self) -> None:
        """End the connection at the end that began it. The other one does not notice."""
        self.silent = True
        self.ends[0].later(self.ends[0].lost, ConnectionResetError("abandoned"))

    def cut(self) -> None:
        """Reset the connection. Both sides notice. What is on its way may arrive before that."""
        self.loses = self.world.random.random() < 0.5
        for end in self.ends:
            end.later(end.lost, ConnectionResetError("cut"))


class End:
    """One side of a link: the transport of its receiver."""

    def __init__(self, link: Link, loop: SimulatedLoop, receiver: Receiver) -> None:
        self.link, self._loop, self._receiver = link, loop, receiver
        self._arrives_at = 0.0
        self._waiting: list[bytes] = []
        self._unread: list[bytes | None] = []
        self._in_flight = 0
        self._closing = self._gone = self._reading_paused = self._full = False
        receiver.connection_made(self)

    # What asyncio's transports offer.

    def write(self, data: bytes) -> None:
        if not self._closing and data:
            self._waiting.append(bytes(data))
            self._send()
            if not self._full and self.get_write_buffer_size() > self.link.high_water:
                self._full = True
                self.link.world.saw("a peer read too slowly")
                self._receiver.pause_writing()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._send()

    def abort(self) -> None:
        self._closing = True
        self.link.cut()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._loop.later(0, self._read)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._waiting))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else default

    def get_protocol(self) -> Any:
        return self._receiver

    def set_protocol(self, protocol: Receiver) -> None:
        self._receiver = protocol

    # What happens on the way.

    def later(self, what: Any, *args: Any) -> None:
        """Do this at the receiver of this end, after the data that is on its way to it."""
        at = max(self._loop.time() + self.link.delay(), self._arrives_at + _LEAST_GAP)
        self._arrives_at = at
        self._loop.later(at - self._loop.time(), what, *args)

    @property
    def _peer(self) -> "End":
        return self.link.ends[1] if self.link.ends[0] is self else self.link.ends[0]

    def _send(self) -> None:
        while self._waiting and self._in_flight < self.link.in_flight:
            data = self._waiting.pop(0)
            self._in_flight += len(data)
            self._peer.later(self._peer._arrived, data)
        if self._closing and not self._waiting:
            self._peer.later(self._peer._arrived, None)
            self.later(self.lost, None)

    def _arrived(self, data: bytes | None) -> None:
        # None is the end of the stream.
        if not (self.link.silent or self.link.loses or self._gone):
            self._unread.append(data)
            self._read()

    def _read(self) -> None:
        while self._unread and not self._reading_paused and not self._gone:
            data = self._unread.pop(0)
            if data is None:
                self.lost(None)
                return
            self._peer.later(self._peer._taken, len(data))
            self._receiver.data_received(data)

    def _taken(self, size: int) -> None:
        if self._gone or self.link.silent:
            return
        self._in_flight -= size
        if self._waiting:
            self._send()
        if self._full and not self._waiting:
            self._full = False
            self._receiver.resume_writing()

    def lost(self, error: Exception | None) -> None:
        """Tell the receiver, once."""
        if not self._gone:
            if self.link.silent:
                self.link.world.saw("a half-open connection was noticed")
            self._gone = self._closing = True
            self._receiver.connection_lost(error)
