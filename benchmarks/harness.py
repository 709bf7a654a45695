"""A server on one core, the load client on another, and the account of what the server used."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from benchmarks.servers import BUILD, HERE, Server, build_directory, compiled, redis_program

HOST = "127.0.0.1"
STARTUP = 30.0
PAYLOAD, PLAY = 230, 6  # bytes; the number and the time are not always of one length
TEXT = ("The quick brown fox jumps over the lazy dog. " * 4)[:170]

_CALM_NS = 300_000
_CALM_TICK = 0.03
_CALM_TICKS = 4
_CALM_LIMIT = 2.5


class Failed(Exception):
    """A server did not do what it was asked for; the text says what."""


@dataclass(frozen=True)
class Cores:
    """Where the server runs, and where everything else."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Self:
        """Take the first two of those that we may use.

        Raises:
            SystemExit: there is only one.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("The server and the load client need a core each; here is only one")
        return cls(cores[0], cores[1])


@dataclass
class LoadClient:
    """The program of load.c: a line goes in, a line of JSON comes out."""

    process: "subprocess.Popen[str]"

    def ask(self, *words: object) -> dict[str, Any]:
        """Have a command done and return what it found.

        Raises:
            Failed: the server did wrong.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the load client died"}
        if "error" in answer:
            raise Failed(f"{' '.join(str(word)[:40] for word in words)}: {answer['error']}")
        return answer


@dataclass
class Session:
    """A running server and its load client."""

    server: Server
    pid: int
    port: int
    load: LoadClient
    token: str = ""
    _rooms: int = field(default=0)

    def enter_room(self, *, different: bool = False, resume: bool = False) -> None:
        """Have further connections subscribe to a room where nobody has been.

        Each with variables of its own where they are to be `different`; behind the last cursor
        where they are to `resume`.
        """
        self._rooms += 1
        room = f"r{self._rooms}"
        init: dict[str, Any] = {"type": "connection_init"}
        if self.token:
            init["payload"] = {"Authorization": f"Bearer {self.token}"}
            self.load.ask("header", f"Authorization: Bearer {self.token}")
        self.load.ask("init", _json(init))
        self.load.ask("subscribe", _subscribe(room, different=different, resume=resume))
        self.load.ask("publish", _publish(room))
        self.load.ask("expect", TEXT)

    def cpu(self) -> int:
        """Return the nanoseconds of processor time that the server has used."""
        return sum(_cpu_clock(pid) for pid in (self.pid, *_children(self.pid)))

    def memory(self) -> int:
        """Return the bytes that are the server's: its proportional set size."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    def calm(self) -> None:
        """Return when the server has nothing left to do, or does it for too long."""
        deadline, quiet, before = time.monotonic() + _CALM_LIMIT, 0, self.cpu()
        while quiet < _CALM_TICKS and time.monotonic() < deadline:
            time.sleep(_CALM_TICK)
            used, before = self.cpu() - before, self.cpu()
            quiet = quiet + 1 if used < _CALM_NS else 0

    def connect(self, more: int) -> None:
        """Have so many more connections subscribe, and see that all of them hear an event."""
        self.load.ask("connect", more, 32)
        self.hear_one()

    def hear_one(self) -> None:
        """See that all subscribers hear an event, and that it is the same as on other servers.

        Raises:
            Failed: it is not.
        """
        self.calm()
        self.load.ask("rounds", 1, 1, 1, 0)
        _check_message(self.load.ask("sample")["sample"])

    def spent(self, *words: object) -> tuple[float, dict[str, Any]]:
        """Return the microseconds of CPU that a command of the load client costs the server."""
        self.calm()
        before = self.cpu()
        answer = self.load.ask(*words)
        time.sleep(_CALM_TICK)
        return (self.cpu() - before) / 1000, answer

    def spent_until_calm(self, *words: object) -> tuple[float, dict[str, Any]]:
        """Return the same for a command whose end is not the end of the server's work."""
        self.calm()
        before = self.cpu()
        answer = self.load.ask(*words)
        self.calm()
        return (self.cpu() - before) / 1000, answer


def _check_message(message: Any) -> None:
    event = message["payload"]["data"]["events"]
    same = {**event, "kind": "created", "text": TEXT}
    if list(event) != ["seq", "sentAt", "kind", "text"] or event != same:
        raise Failed(f"another event than on other servers: {event}")
    if abs(len(_json(event)) - PAYLOAD) > PLAY:
        raise Failed(f"an event of {len(_json(event))} bytes")


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _subscribe(room: str, *, different: bool, resume: bool) -> str:
    query = (
        "subscription Events($room: String!, $tag: Int) "
        "{ events(room: $room, tag: $tag) { seq sentAt kind text } }"
    )
    after = "$AFTER" if resume else ""
    tag = "$NUMBER" if different else "0"
    variables = f'{{"room":"{room}","tag":{tag}}}'
    return (
        f'{{"id":"$ID","type":"subscribe","payload":{{"query":{_json(query)},'
        f'"operationName":"Events","variables":{variables}{after}}}}}'
    )


def _publish(room: str) -> str:
    query = "mutation Publish($count: Int!, $room: String!) { publish(count: $count, room: $room) }"
    return f'{{"query":{_json(query)},"variables":{{"count":$COUNT,"room":"{room}"}}}}'


def _cpu_clock(pid: int) -> int:
    # clock_getcpuclockid(3), which Python does not have: all threads, also those that ended.
    with suppress(OSError):
        return time.clock_gettime_ns((~pid << 3) | 2)
    raise Failed("the server has died")


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield int(child)
                yield from _children(int(child))


@contextmanager
def session(
    server: Server, cores: Cores, *, secret: str = "", token: str = "", count: bool = False
) -> Iterator[Session]:
    """Run the server and a load client; nothing is left of them afterwards.

    With a `secret` the server wants tokens that are signed with it, and `token` is shown to it.
    With `count` it counts what it executes.

    Raises:
        Failed: the server does not start.
    """
    with ExitStack() as stack:
        environment = {**_environment(), **server.environment}
        if server.redis:
            environment["GQLNOTIFY_BROKER_URL"] = stack.enter_context(_redis())
        if secret:
            environment |= {"BENCH_SECRET": secret, "GQLNOTIFY_JWT_SECRET": secret}
            # All clients show the same token.
            environment["GQLNOTIFY_MAX_CONNECTIONS_PER_SUBJECT"] = "100000"
        if count:
            environment["BENCH_COUNT"] = "1"
        port = free_port()
        log = stack.enter_context((build_directory() / f"{server.name}.log").open("w+"))
        command = server.start(port)
        process = stack.enter_context(_process(command, environment, log, core=cores.server))
        _wait_until_it_listens(process, port, log)
        load = stack.enter_context(load_client(port, cores))
        yield Session(server, process.pid, port, load, token)


@contextmanager
def load_client(port: int, cores: Cores) -> Iterator[LoadClient]:
    """Run a load client for the server on `port`."""
    command = [str(compiled("load")), str(port)]
    with _process(command, _environment(), sys.stderr, core=cores.load, talk=True) as process:
        yield LoadClient(process)


def raise_limits() -> None:
    """Allow us and those we start as many open files as may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server((HOST, 0)) as found:
        return int(found.getsockname()[1])


def _environment() -> dict[str, str]:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("GQLNOTIFY_")}
    return {**ours, "BENCH_TEXT": TEXT}


@contextmanager
def _process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: IO[str],
    *,
    core: int,
    talk: bool = False,
) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE if talk else subprocess.DEVNULL
    with _on_core(core):
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=HERE.parent,
            stdin=pipe,
            stdout=pipe if talk else log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for end in (process.stdin, process.stdout):
            if end:
                with suppress(BrokenPipeError):
                    end.close()


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    # What is started inherits the core with all threads that it will ever have.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _wait_until_it_listens(process: "subprocess.Popen[str]", port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.02)
    log.seek(0)
    raise Failed(f"it does not start: {log.read().strip()[-300:] or 'no output'}")


@contextmanager
def _redis() -> Iterator[str]:
    # It inherits our core, the load client's.
    port = free_port()
    options = ["--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no"]
    core = min(os.sched_getaffinity(0))
    with (build_directory() / "redis.log").open("w+") as log:
        command = [redis_program(), *options, "--dir", str(BUILD)]
        with _process(command, os.environ, log, core=core) as process:
            _wait_until_it_listens(process, port, log)
            yield f"redis://{HOST}:{port}"
