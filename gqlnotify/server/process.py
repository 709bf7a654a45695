"""The server processes of `gqlnotify serve`: those of uvicorn, with a drain before the shutdown."""

import asyncio
import copy
import errno
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
from gqlnotify.server.garbage import garbage
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
    """The application could not be started. The text gives the reason in one line."""


class Config(uvicorn.Config):
    """uvicorn's configuration, with our `Lifespan`."""

    @override
    def load(self) -> None:
        """Import the application and the protocol classes."""
        super().load()
        if self.lifespan_class is LifespanOn:
            self.lifespan_class = Lifespan


class Lifespan(LifespanOn):
    """Logs a failed start in one line if an operator can fix the cause.

    Starlette reports the traceback as the reason. This replaces it by the text of the exception.
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
        """Take a message of the application. A failure waits until the exception is known."""
        if message["type"] == "lifespan.startup.failed":
            self._failure = message
        else:
            await super().send(message)


class Server(uvicorn.Server):
    """A server that drains while it still listens.

    So readiness probes get a 503, and the kernel refuses no connection in the meantime.

    Args:
        config: The configuration.
        supervised: Whether a parent process supervises this one. Then only the parent acts on a
            second signal. A terminal or systemd sends each signal to both processes, and the parent
            forwards its own, so this process may get one signal twice.
    """

    def __init__(self, config: uvicorn.Config, *, supervised: bool = False) -> None:
        super().__init__(config)
        self._supervised = supervised

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. At the second signal, end at once."""
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif not self._supervised:
            _end_at_once(sig)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, listen, and log the address unless the parent has logged it."""
        try:
            await super().startup(sockets)
        finally:
            if self._supervised and self.reason is not None:
                logger.error(self.reason)
        if self.started:
            garbage.collect_in_steps()
        if not self._supervised:
            _announce(self.config)

    @property
    def reason(self) -> str | None:
        """Why the application did not start, if an operator can fix the cause."""
        lifespan = getattr(self, "lifespan", None)
        return lifespan.reason if isinstance(lifespan, Lifespan) else None

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then shut down as uvicorn does, in the rest of the time for both."""
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
        """The server that this process runs."""
        if self._server is None:
            self._server = Server(self.config, supervised=True)
        return self._server


class Supervisor(multiprocess.Multiprocess):
    """Starts, watches and stops the workers. A second signal ends all processes at once."""

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
    """Return a socket for each address of `host`, all bound to `port`. 0 stands for a free port.

    Raises:
        OSError: The host is unknown or not an address of this machine, or the port is in use.
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
            # A name may have an IPv6 address on a machine without IPv6.
            missing = error
        else:
            port = bound[0].getsockname()[1]
    if missing is not None and not bound:
        raise missing
    return bound


def run(config: Config, sockets: list[socket.socket]) -> None:
    """Serve on `sockets` until a signal, in `config.workers` processes.

    Raises:
        CannotStart: The application failed to start, and an operator can fix the cause.
        SystemExit: It failed because of a bug. The log has the traceback.
    """
    with suppress(KeyboardInterrupt):
        if config.should_reload:
            _announce(config)
            server = Server(config, supervised=True)
            ChangeReload(config, target=server.run, sockets=sockets).run()
        elif config.workers > 1:
            _announce(config)
            # uvicorn has no option for the class of its workers.
            multiprocess.Process = Worker  # type: ignore[misc]
            supervisor = Supervisor(config, sockets)
            supervisor.run()
            if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
                raise CannotStart("a worker failed to start: see the reason above")
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
    """Return the type and text of `error` in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _addresses(host: str) -> Sequence[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:
        # IDNA can't encode the name, for example because a label is too long (RFC 5890).
        raise OSError(str(error)) from None
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As in asyncio: otherwise this socket would take the port for IPv4 too.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    made.set_inheritable(True)
    return made


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
    # `os._exit`, because the kernel does not apply a signal's default action to the first process
    # of a container.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + sig)
