"""Ports for programs that can't choose a free one, or that restart on the same one."""

import errno
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

HOST = "127.0.0.1"
BUS = 10_000
"""A node of a Redis cluster talks to the others on its port and this."""

T = TypeVar("T")


class PortTaken(OSError):
    """Another program listens on the port."""

    def __init__(self) -> None:
        super().__init__(errno.EADDRINUSE, "The port has been taken")


def on_a_free_port(start: Callable[[int], T]) -> T:
    """Return the result of `start` for a free port; try the next if another program takes it.

    `start` raises an `OSError` with `EADDRINUSE`, for example `PortTaken`, if the port is taken.
    """
    while True:
        try:
            return start(free_port())
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def free_port() -> int:
    """Return a port that is free, and whose port for a cluster's bus is free too.

    It is below those that the kernel takes for outgoing connections: the port of a server that
    is down for a moment goes to no client, least of all to one that tries to reach that server,
    and would be connected to itself.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 20_000)
        if _is_free(port) and _is_free(port + BUS):
            return port


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server((HOST, port)):
        return True
    return False


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port that refuses connections: it is bound, and nothing listens on it."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]
