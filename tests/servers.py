"""Real server processes on free loopback ports, and npm clients for them."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from tests.ports import PortTaken, on_a_free_port
from tests.waiting import SCALE

ROOT = Path(__file__).parent.parent
CLIENTS = Path(__file__).parent / "clients"
PATIENCE = 60.0 * SCALE
# For httpx: without it each client reads all certificate authorities, and no server here has TLS.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# Errors of resolvers are logged too, but do not count.
_TROUBLE = (
    "Exception in",
    "was never retrieved",
    "was never awaited",
    "was destroyed",
    "An operation failed",
    "A connection failed",
    "Warning:",
)


@dataclass(frozen=True)
class Program:
    """An ASGI server: its command line, and the log line that says that it listens.

    Where `takes_a_free_port` is False, one is chosen that the kernel gives to no client: while the
    server is down, others may look for it there.
    """

    command: str
    listening: str
    takes_a_free_port: bool = True

    def run(self, application: str, port: int) -> list[str]:
        """Return the command line that serves `application`."""
        command = self.command.format(application=application, port=port)
        return [sys.executable, "-m", *command.split()]


UVICORN = Program(
    "uvicorn {application} --no-access-log --port {port} --timeout-graceful-shutdown 2",
    r"Uvicorn running on \S+:(\d+)",
)
HYPERCORN = Program(
    "hypercorn {application} --bind 127.0.0.1:{port} --graceful-timeout 2",
    r"Running on http://\S+:(\d+)",
)
GRANIAN = Program(
    "granian {application} --interface asgi --host 127.0.0.1 --port {port}",
    r"Started worker-1",
    takes_a_free_port=False,
)
# gqlnotify's own protocol class for uvicorn.
DIRECT = ("--ws", "gqlnotify.server:WebSocketProtocol")
# The line appears before the workers are ready.
SERVE = Program("gqlnotify serve {application} --port {port}", r"Uvicorn running on \S+:(\d+)")
DRAINING_UVICORN = Program(
    "uvicorn {application} --port {port} --ws gqlnotify.server:WebSocketProtocol"
    " --http gqlnotify.http_server:HttpProtocol --timeout-graceful-shutdown 8"
    " --timeout-worker-healthcheck 20",
    r"Uvicorn running on \S+:(\d+)",
)


@dataclass
class Server:
    """An application in a server process of its own.

    `port` 0 takes a free one and keeps it: a server that is started again is found where it was.
    """

    application: str
    log_file: Path
    environment: Mapping[str, str]
    arguments: Sequence[str] = ()
    port: int = 0
    program: Program = UVICORN
    directory: Path = ROOT
    process: subprocess.Popen[bytes] | None = None

    @property
    def http(self) -> str:
        """The origin, for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        """The origin, for WebSocket."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the processes wrote so far."""
        return self.log_file.read_text()

    @property
    def trouble(self) -> list[str]:
        """The log lines about exceptions that were not handled."""
        return [line for line in self.log.splitlines() if any(sign in line for sign in _TROUBLE)]

    def start(self) -> Self:
        """Start, and return once it listens."""
        if self.port or self.program.takes_a_free_port:
            return self._launch(self.port)
        return on_a_free_port(self._launch)

    def _launch(self, port: int) -> Self:
        seen = self.log_file.stat().st_size if self.log_file.exists() else 0
        command = [*self.program.run(self.application, port), *self.arguments]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=dict(self.environment), stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while (listening := re.search(self.program.listening, self.log[seen:])) is None:
            self._assert_runs(seen)
            assert time.monotonic() < deadline, f"the server is slow to start:\n{self.log}"
            time.sleep(0.02)
        self.port = int(listening[1]) if listening.groups() else port
        return self

    def _assert_runs(self, seen: int) -> None:
        assert self.process is not None
        if self.process.poll() is not None and "in use" in self.log[seen:]:
            raise PortTaken
        assert self.process.poll() is None, f"the server did not start:\n{self.log}"

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End the process, and return once it has ended."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.process = None


def patience() -> asyncio.Timeout:
    """Return the timeout for all that a test waits for."""
    return asyncio.timeout(PATIENCE)


@contextmanager
def serving(
    application: str,
    directory: Path,
    *arguments: str,
    program: Program = UVICORN,
    **settings: object,
) -> Iterator[Server]:
    """Serve `application` ("module:attribute") with these `settings`; its log is in `directory`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GQLNOTIFY_")}
    named = {f"GQLNOTIFY_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {**inherited, **named, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    log_file = directory / f"{application.replace(':', '.')}.log"
    server = Server(application, log_file, environment, arguments, program=program)
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def node(script: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a script of tests/clients with these options; it answers in lines of JSON."""
    assert (CLIENTS / "node_modules").is_dir(), "run `npm install --prefix tests/clients` first"
    process = subprocess.Popen(
        ["node", str(CLIENTS / script), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run_node(script: str, **options: Any) -> Any:
    """Run a script to its end and return the one line of JSON that it prints."""
    with node(script, **options) as process:
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        return json.loads(output)


class PromptServer(uvicorn.Server):
    """Stops at once. uvicorn looks ten times a second whether to stop, and then pauses as long."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    @override
    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._stopping.wait()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not await self._is_idle():
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
            await server.wait_closed()
        await self.lifespan.shutdown()

    async def _is_idle(self) -> bool:
        state = self.server_state
        # The event loop needs some turns to see that clients have closed their connections.
        for _ in range(10):
            if not state.connections and not state.tasks:
                return True
            await asyncio.sleep(0)
        return False


@asynccontextmanager
async def running(
    application: ASGIApp, *, ws: type[asyncio.Protocol] | Literal["auto"] = "auto", **options: Any
) -> AsyncIterator[str]:
    """Serve an application made by the test, in its own event loop; yields `127.0.0.1:<port>`.

    Args:
        application: what is served.
        ws: the protocol class for WebSocket, or uvicorn's own.
        options: others of uvicorn's.
    """
    # uvicorn would ping after 20 seconds, which a busy machine needs for some tests: the peers that
    # read frame by frame expect none, and others may be too busy to answer.
    options.setdefault("ws_ping_interval", None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            application, log_config=None, timeout_graceful_shutdown=2, ws=ws, **options
        )
        server = PromptServer(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with patience():
                while not server.started:
                    assert not task.done(), "the server did not start"
                    await asyncio.sleep(0)
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.stop()
            await task
