"""Runs a subject on one core and the load client on another, and measures what the subject uses."""

import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self

from benchmarks import tokens
from benchmarks.queries import as_json
from benchmarks.subjects import BUILD, HERE, Subject, build_directory, compiled, redis_program

HOST = "127.0.0.1"
STARTUP = 30.0
PAYLOAD, PLAY = 230, 6  # bytes; the number and the time are not always of one length
BURST = 50
MISSED = 20
TEXT = ("The quick brown fox jumps over the lazy dog. " * 4)[:170]

_CALM_US = 300
_CALM_TICK = 0.03
_CALM_TICKS = 4
_CALM_LIMIT = 2.5


class Failed(Exception):
    """A server did not do what it was asked for; the text says what."""


@dataclass(frozen=True)
class Cores:
    """Where the server runs, where a second process of it does, and where everything else."""

    server: int
    second: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Self:
        """Take the first of those that we may use; without a third, both processes share one.

        Raises:
            SystemExit: there is only one.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("The server and the load client need a core each; here is only one")
        server, load, *more = cores
        return cls(server, more[0] if more else server, load)


@dataclass
class LoadClient:
    """The program of load.c: a line goes in, a line of JSON comes out."""

    process: "subprocess.Popen[str]"

    def ask(self, *words: object) -> dict[str, Any]:
        """Have a command done and return what it found.

        Raises:
            Failed: the server did wrong.
        """
        self.tell(*words)
        return self.hear(*words)

    def tell(self, *words: object) -> None:
        """Have a command done; `hear` returns what it found."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
            self.process.stdin.flush()

    def hear(self, *words: object) -> dict[str, Any]:
        """Return what the command found that was told to the client first.

        Raises:
            Failed: the server did wrong.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the load client died"}
        if "error" in answer:
            raise Failed(f"{' '.join(str(word)[:40] for word in words)}: {answer['error']}")
        return answer


@dataclass
class Process:
    """A process of a subject, with the command that serves on its port."""

    command: Sequence[str]
    environment: Mapping[str, str]
    port: int
    core: int
    log: Path
    pid: int = 0
    _running: ExitStack = field(default_factory=ExitStack)
    _wait: Callable[[], None] = field(init=False)

    def start(self) -> None:
        """Start it; `wait` returns when it listens."""
        log = self._running.enter_context(self.log.open("w+"))
        process = self._running.enter_context(
            _process(self.command, self.environment, log, core=self.core)
        )
        self.pid = process.pid
        self._wait = partial(_wait_until_it_listens, process, self.port, log)

    def wait(self) -> None:
        """Return when it listens.

        Raises:
            Failed: it does not, in time.
        """
        self._wait()

    def stop(self) -> None:
        """Kill it."""
        self._running.close()

    def restart(self) -> None:
        """Kill it, and start it again on its port."""
        self.stop()
        self.start()
        self.wait()

    def cpu(self) -> int:
        """Return the nanoseconds of processor time that it has used."""
        return sum(_cpu_clock(pid) for pid in (self.pid, *_children(self.pid)))

    def memory(self) -> int:
        """Return the bytes that are its own: the proportional set size."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    def get(self, path: str) -> Any:
        """Return the JSON that a path answers with.

        Raises:
            Failed: it answers with something else, or not at all.
        """
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=30) as response:
                return json.load(response)
        except (OSError, ValueError) as error:
            raise Failed(f"{path}: {error}") from error


@dataclass
class Session:
    """The running processes of a subject, and their load client."""

    subject: Subject
    processes: Sequence[Process]
    load: LoadClient
    token_file: Path | None = None
    _rooms: int = 0

    @property
    def process(self) -> Process:
        """The first process, where subscribers are."""
        return self.processes[0]

    @property
    def other(self) -> Process:
        """The last process."""
        return self.processes[-1]

    def enter_room(self, *, different: bool = False, resume: bool = False, number: int = 0) -> None:
        """Have further connections subscribe to a new room.

        Each with variables of its own where they are to be `different`; behind the last cursor
        where they are to `resume`. Two load clients that take the same `number` meet there.
        """
        self._rooms = number or self._rooms + 1
        room, queries = f"r{self._rooms}", self.subject.queries
        init: dict[str, Any] = {"type": "connection_init"}
        if self.token_file:
            init["payload"] = {"Authorization": "Bearer $TOKEN"}
            self.load.ask("tokens", self.token_file)
            self.load.ask("header", "Authorization: Bearer $TOKEN")
        self.load.ask("init", as_json(init))
        subscription = as_json(queries.subscribe(room, different=different))
        if resume:
            subscription = f"{subscription[:-1]}$AFTER}}"
        self.load.ask("subscribe", f'{{"id":"$ID","type":"subscribe","payload":{subscription}}}')
        for count in (1, MISSED, BURST // 2, BURST):
            self.load.ask("publish", count, as_json(queries.publish(room, count, TEXT)))
        self.load.ask("expect", TEXT)

    def publish_over_websockets(self, many: int, process: Process | None = None) -> None:
        """Publish over so many WebSockets from now on, to the process or the first."""
        self.load.ask("publishers", many, (process or self.process).port)

    def calm(self) -> None:
        """Return when the server has nothing left to do, or does it for too long."""
        deadline, quiet, before = time.monotonic() + _CALM_LIMIT, 0, self._clocks()
        while quiet < _CALM_TICKS and time.monotonic() < deadline:
            time.sleep(_CALM_TICK)
            used, before = max(self._since(before)), self._clocks()
            quiet = quiet + 1 if used < _CALM_US else 0

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
        self._check_message(self.load.ask("sample")["sample"])

    def spent(self, *words: object) -> tuple[list[float], dict[str, Any]]:
        """Return the microseconds of CPU that a command of the load client costs each process."""
        self.calm()
        before = self._clocks()
        answer = self.load.ask(*words)
        time.sleep(_CALM_TICK)
        return self._since(before), answer

    def spent_until_calm(self, *words: object) -> list[float]:
        """Return the same for a command whose end is not the end of the server's work."""
        self.calm()
        before = self._clocks()
        self.load.ask(*words)
        self.calm()
        return self._since(before)

    def _clocks(self) -> list[int]:
        return [process.cpu() for process in self.processes]

    def _since(self, before: Sequence[int]) -> list[float]:
        return [(now - then) / 1000 for now, then in zip(self._clocks(), before, strict=True)]

    def _check_message(self, message: Any) -> None:
        event = self.subject.queries.event(message["payload"]["data"])
        same = {**event, "kind": "created", "text": TEXT}
        if list(event) != ["seq", "sentAt", "kind", "text"] or event != same:
            raise Failed(f"another event than on other servers: {event}")
        if abs(len(as_json(event)) - PAYLOAD) > PLAY:
            raise Failed(f"an event of {len(as_json(event))} bytes")


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
    subject: Subject,
    cores: Cores,
    *,
    check_tokens: bool = False,
    processes: int = 1,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Session]:
    """Run the processes of a subject and a load client; nothing is left of them afterwards.

    Raises:
        Failed: the subject does not start.
    """
    check_tokens = check_tokens or subject.needs_tokens
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        variables = {
            **_environment(),
            "GQLNOTIFY_DATABASE_URL": f"sqlite:///{directory}/tasks.db",
            # As the other servers, which log no requests and connections either.
            "GQLNOTIFY_LOG_LEVEL": "warning",
            **subject.environment,
            **environment,
        }
        if subject.redis:
            variables["GQLNOTIFY_BROKER_URL"] = stack.enter_context(_redis())
        if check_tokens:
            variables |= {"BENCH_SECRET": tokens.SECRET, "GQLNOTIFY_JWT_SECRET": tokens.SECRET}
        running = [
            _subject_process(subject, variables, number, cores) for number in range(processes)
        ]
        for process in running:
            stack.callback(process.stop)
            process.start()
        for process in running:
            process.wait()
        load = stack.enter_context(load_client(running[0].port, cores))
        yield Session(subject, running, load, tokens.good() if check_tokens else None)


def _subject_process(
    subject: Subject, environment: Mapping[str, str], number: int, cores: Cores
) -> Process:
    port = free_port()
    log = build_directory() / f"{subject.name}-{number}.log"
    core = cores.second if number else cores.server
    return Process(subject.start(port), environment, port, core, log)


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
    """Return a port that is free now.

    The kernel takes it for no outgoing connection, which could connect to itself before the server
    listens.
    """
    while True:
        port = random.randrange(10_000, 20_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


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
