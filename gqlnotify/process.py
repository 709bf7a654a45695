"""The server processes of `gqlnotify serve`: uvicorn's, with a drain before its shutdown."""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, multiprocess

from gqlnotify.draining import Drain
from gqlnotify.http_server import HttpProtocol
from gqlnotify.server import WebSocketProtocol, drain_times

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger("uvicorn.error")


class Server(uvicorn.Server):
    """Drains while it still listens: so readiness says 503, and nothing is refused by the kernel.

    Args:
        config: uvicorn's.
        supervised: whether another process looks after this one. Then a second signal is that
            process's business: a terminal or systemd signals both, and the one passes it on.
    """

    def __init__(self, config: uvicorn.Config, *, supervised: bool = False) -> None:
        super().__init__(config)
        self._supervised = supervised

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, end at once."""
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif not self._supervised:
            _end_at_once(sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end as uvicorn does, in what is left of the time for both."""
        loop = asyncio.get_running_loop()
        window, margin = drain_times(self.config.timeout_graceful_shutdown)
        end = loop.time() + window + margin
        logger.info("Draining over %g seconds", window)
        for connection in list(self.server_state.connections):
            _retire(connection)
        await Drain.of(loop).begin(window, margin)
        left: Any = max(end - loop.time(), 0)
        self.config.timeout_graceful_shutdown = left
        await super().shutdown(sockets)


class Worker(multiprocess.Process):
    """One of several server processes."""

    @property
    def server(self) -> uvicorn.Server:
        """The server that it runs."""
        if self._server is None:
            self._server = Server(self.config, supervised=True)
        return self._server


class Supervisor(multiprocess.Multiprocess):
    """Starts, watches and stops the workers. A second signal ends them, and itself, at once."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._stopping = False
        for number in _SIGNALS:
            signal.signal(number, self._stop)

    def _stop(self, sig: int, _frame: FrameType | None) -> None:
        if self._stopping:
            _end_at_once(sig)
        self._stopping = True
        self.signal_queue.append(sig)


def run(config: uvicorn.Config) -> None:
    """Serve until a signal says otherwise, in as many processes as `config` asks for.

    Raises:
        SystemExit: the server did not start.
    """
    with suppress(KeyboardInterrupt):
        if config.should_reload:
            server = Server(config, supervised=True)
            with config.bind_socket() as listening:
                ChangeReload(config, target=server.run, sockets=[listening]).run()
        elif config.workers > 1:
            # Uvicorn takes no other class for its workers.
            multiprocess.Process = Worker  # type: ignore[misc]
            with config.bind_socket() as listening:
                Supervisor(config, [listening]).run()
        else:
            _run_one(config)


def _run_one(config: uvicorn.Config) -> None:
    config.load_app()
    server = Server(config)
    try:
        server.run()
    finally:
        if not server.started:
            sys.exit(STARTUP_FAILURE)


def _retire(connection: Any) -> None:
    match connection:
        case WebSocketProtocol():
            Drain.of(connection.loop).add(connection)
        case HttpProtocol():
            connection.retire()


def _end_at_once(sig: int) -> None:
    # Not by the signal's default action: the kernel spares the first process of a container.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + sig)
