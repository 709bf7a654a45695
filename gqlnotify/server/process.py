"""The server processes of `gqlnotify serve`: uvicorn's, with a drain before its shutdown."""

import asyncio
import copy
import errno
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from typing_extensions import override

from gqlnotify.drain import Drain
from gqlnotify.errors import NotifyError
from gqlnotify.server.http import HttpProtocol
from gqlnotify.server.uvicorn_adapter import (
    STARTUP_FAILURE,
    ChangeReload,
    LifespanOn,
    multiprocess,
)
from gqlnotify.server.websocket import WebSocketProtocol, drain_times

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Errors that an operator can usually fix: a file, an address, a service, a setting.
MENDABLE = (OSError, ValueError, NotifyError)

logger = logging.getLogger("uvicorn.error")


class CannotStart(Exception):
    """The application could not be started; the text says why, in one line."""


class Config(uvicorn.Config):
    """uvicorn's, with `Lifespan` in place of its own."""

    @override
    def load(self) -> None:
        """Import the application and the protocol classes."""
        super().load()
        if self.lifespan_class is LifespanOn:
            self.lifespan_class = Lifespan


class Lifespan(LifespanOn):
    """Logs a failed start in one line if an operator can fix the cause.

    Starlette reports the text of a traceback, which this replaces by that of the exception.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(copy.copy(config))
        self.reason: str | None = None
        self._application: Any = config.loaded_app
        self._failure: Any = None
        self.config.loaded_app = self._run

    async def _run(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._application(scope, receive, send)
        except MENDABLE as error:
            if self._failure is not None:
                self.reason, self._failure["message"] = one_line(error), ""
            raise
        finally:
            if self._failure is not None:
                await super().send(self._failure)

    @override
    async def send(self, message: Any) -> None:
        """Take a message of the application; a failure waits until it is known what was raised."""
        if message["type"] == "lifespan.startup.failed":
            self._failure = message
        else:
            await super().send(message)


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

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, end at once."""
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif not self._supervised:
            _end_at_once(sig)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen, and say where unless another process has done so."""
        try:
            await super().startup(sockets)
        finally:
            if self._supervised and self.reason is not None:
                logger.error(self.reason)
        if self.started:
            _spare_what_stays()
        if not self._supervised:
            _announce(self.config)

    @property
    def reason(self) -> str | None:
        """Why the application did not start, if an operator can fix it."""
        lifespan = getattr(self, "lifespan", None)
        return lifespan.reason if isinstance(lifespan, Lifespan) else None

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end as uvicorn does, in what is left of the time for both."""
        loop = asyncio.get_running_loop()
        window, margin = drain_times(loop, self.config.timeout_graceful_shutdown)
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
    @override
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


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of `host`, all bound to `port`; 0 takes a free one.

    Raises:
        OSError: there is no such host, it is not this machine's, or the port is taken.
    """
    bound: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in _addresses(host):
        try:
            bound.append(_bound(family, (address, port)))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                for each in bound:
                    each.close()
                raise
            # A name may stand for IPv6 on a machine that has none.
            missing = error
        else:
            port = bound[0].getsockname()[1]
    if missing is not None and not bound:
        raise missing
    return bound


def run(config: Config, sockets: list[socket.socket]) -> None:
    """Serve on `sockets` until a signal says otherwise, in as many processes as `config` asks for.

    Raises:
        CannotStart: the application failed to start.
        SystemExit: it failed for a reason that is a mistake in its code. The log has the traceback.
    """
    with suppress(KeyboardInterrupt):
        if config.should_reload:
            _announce(config)
            server = Server(config, supervised=True)
            ChangeReload(config, target=server.run, sockets=sockets).run()
        elif config.workers > 1:
            _announce(config)
            # Uvicorn takes no other class for its workers.
            multiprocess.Process = Worker  # type: ignore[misc]
            supervisor = Supervisor(config, sockets)
            supervisor.run()
            if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
                raise CannotStart("a worker failed, for the reason above")
        else:
            _run_one(config, sockets)


def _run_one(config: Config, sockets: list[socket.socket]) -> None:
    config.load_app()
    server = Server(config)
    try:
        server.run(sockets)
    finally:
        if server.reason is not None:
            raise CannotStart(server.reason)
        if not server.started:
            sys.exit(STARTUP_FAILURE)


def one_line(error: BaseException) -> str:
    """Return what `error` says in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _addresses(host: str) -> Sequence[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:
        # A name that is too long for IDNA.
        raise OSError(str(error)) from None
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As asyncio does: IPv4 has a socket of its own.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    made.set_inheritable(True)
    return made


def _spare_what_stays() -> None:
    """Exclude the objects that exist now from garbage collection.

    They are modules, the schema and the application, and stay as long as the process. There are
    some 300,000 of them. New connections cause full collections, each of which would visit all.
    """
    gc.collect()
    gc.freeze()


def _announce(config: uvicorn.Config) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    logger.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", host, config.port)


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
