"""`python -m tests.rolling`: two servers that restart one after the other under load."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx

from gqlnotify import Publisher, Settings
from schema.commands import notices
from schema.types import Notice
from tests.chaos.participants import PATIENCE, SECRET, event_cursor, headers
from tests.redis_servers import redis_server, wait_for
from tests.servers import SERVE, Server, node, serving

_CREATE = "mutation ($title: String!) { createTask(input: {title: $title}) { version } }"
_NOTICES = notices("rolling")
_PAUSE = 0.01


@dataclass
class Report:
    """The published and the received events, summed over the clients."""

    restarts: int
    events: int
    dropped: int = 0
    """Requests without an answer."""
    delivered: int = 0
    lost: int = 0
    repeated: int = 0
    broken: list[Any] = field(default_factory=list)
    closes: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    """Attempts to connect to a server that was down or about to stop."""
    trouble: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def good(self) -> bool:
        """Whether every client got every event once, in order, and every request its answer."""
        wrong = self.dropped, self.lost, self.repeated, self.broken, self.trouble
        return not any(wrong) and set(self.closes) <= {1012}

    def take(self, counted: Sequence[dict[str, Any]]) -> None:
        """Add the counts of the clients."""
        for client in counted:
            self.closes.update(client["codes"])
            self.refused += client["refused"]
            for stream in (client["tasks"], client["notices"]):
                self.delivered += stream["delivered"]
                self.repeated += stream["repeated"]
                self.broken += stream["broken"]
        # Events that no client got, also at the end.
        self.lost = len(counted) * self.events - (self.delivered - self.repeated)

    def __str__(self) -> str:
        return (
            f"{self.restarts} restarts in {self.seconds:.0f} s, {self.events} events, "
            f"{self.delivered} deliveries: {self.lost} lost, {self.repeated} repeated or reordered;"
            f" {self.dropped} requests dropped; closes by code {dict(self.closes)}, "
            f"{self.refused} connections refused"
            + "".join(f"\nWRONG: {wrong}" for wrong in (*self.broken, *self.trouble))
        )


class Work(Thread):
    """Repeats something, and counts how often, until it is stopped."""

    pause = _PAUSE

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self._over = Event()

    def run(self) -> None:
        """Repeat it."""
        for number in count(1):
            if self._over.is_set():
                return
            self.do(number)
            self.done = number
            time.sleep(self.pause)

    def do(self, number: int) -> None:
        """Do it once."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop, and return once the last repetition has ended."""
        self._over.set()
        self.join(PATIENCE)
        assert not self.is_alive()


class Notices(Work):
    """Publishes to a plain topic."""

    def __init__(self, publisher: Publisher) -> None:
        super().__init__()
        self._publisher = publisher

    def begin(self) -> str:
        """Return the cursor before the first event."""
        return str(self._publisher.publish_sync(_NOTICES, _notice(0)))

    def do(self, number: int) -> None:
        """See `Work.do`."""
        self._publisher.publish_sync(_NOTICES, _notice(number))


class Tasks(Work):
    """Creates tasks, at one server after the other."""

    def __init__(self, servers: Sequence[Server]) -> None:
        super().__init__()
        self._http = [httpx.Client(base_url=s.http, timeout=PATIENCE) for s in servers]
        self.dropped = 0

    def stop(self) -> None:
        """See `Work.stop`."""
        super().stop()
        for http in self._http:
            http.close()

    def do(self, number: int) -> None:
        """See `Work.do`."""
        body = {"query": _CREATE, "variables": {"title": str(number)}}
        for turn in count(number):
            http = self._http[turn % len(self._http)]
            try:
                answer = http.post("/graphql", json=body, headers=headers())
            except httpx.ConnectError:
                # The server is restarting: the request was not sent.
                time.sleep(_PAUSE)
            except httpx.TransportError:
                self.dropped += 1
                return
            else:
                assert "errors" not in answer.json(), answer.text
                return


def run(restarts: int, *, clients: int, window: float, logs: Path) -> Report:
    """Restart the servers one after the other, several times, while clients publish and follow."""
    began = time.monotonic()
    with redis_server(persistent=True) as redis, ExitStack() as running:
        # Long enough that a slow machine can't cause a gap.
        broker: dict[str, Any] = {"broker_url": redis.url, "history_length": 20_000}
        settings = {"drain_window": window, "max_connections_per_subject": 1000, **broker}
        servers = [running.enter_context(task_service(logs / name, **settings)) for name in "ab"]
        publisher = Notices(running.enter_context(Publisher(settings=Settings(**broker))))
        tasks = Tasks(servers)
        following = running.enter_context(
            node(
                "rolling.mjs",
                servers=[server.http.removeprefix("http://") for server in servers],
                clients=clients,
                after={"tasks": event_cursor(servers[0]), "notices": publisher.begin()},
                secret=SECRET,
            )
        )
        for work in (publisher, tasks):
            work.start()
        for turn in range(restarts):
            _restart(servers[turn % 2], tasks)
        for work in (publisher, tasks):
            work.stop()
        counted = _counted(following, [tasks.done, publisher.done])
    report = Report(restarts, tasks.done + publisher.done, dropped=tasks.dropped)
    report.take(counted)
    report.trouble += [line for server in servers for line in server.trouble]
    report.seconds = time.monotonic() - began
    return report


def _notice(number: int) -> Notice:
    return Notice(payload=number, author=None, published_at=datetime.now(UTC))


def _restart(server: Server, tasks: Tasks) -> None:
    """Restart the server, with load before, during and after that."""
    goal = tasks.done + 10
    wait_for(lambda: tasks.done >= goal, "tasks are made", seconds=PATIENCE)
    server.stop()
    server.start()


@contextmanager
def task_service(directory: Path, **settings: object) -> Iterator[Server]:
    """Run the task service with its log in `directory`, and its database in the folder above."""
    directory.mkdir()
    shared = {"jwt_secret": SECRET, "database_url": f"sqlite:///{directory.parent}/tasks.db"}
    program = replace(SERVE, takes_a_free_port=False)
    with serving("schema.app:app", directory, program=program, **shared, **settings) as server:
        yield server


def _counted(following: "subprocess.Popen[str]", goal: Sequence[int]) -> Sequence[dict[str, Any]]:
    output, _ = following.communicate(json.dumps(goal), timeout=PATIENCE)
    found: Sequence[dict[str, Any]] = json.loads(output)
    return found


def main() -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.rolling")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--window", type=float, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rolling-") as logs:
        report = run(
            options.restarts, clients=options.clients, window=options.window, logs=Path(logs)
        )
    print(report)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
