"""Publishers, and clients that must get every event."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import httpx
from jose import jwt

from tests.chaos.audit import Arrival, Published
from tests.chaos.presence import ROOM
from tests.chaos.publishing import NOTICES
from tests.servers import CLIENTS, ROOT, Server
from tests.waiting import SCALE

STREAMS = ("tasks", "notices")
SECRET = "a secret for the chaos"
PATIENCE = 60 * SCALE

_PAUSE = 0.03
_CREATE = "mutation ($title: String!) { createTask(input: {title: $title}) { version } }"
_CURSOR = "{ tasks(first: 1) { eventCursor } }"


class Phase:
    """The fault that happens now."""

    number = 0


class Lines:
    """A process that prints lines of JSON and ends once its stdin does."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command = command
        self._log = log
        self._environment = {**os.environ, **environment}

    def take(self, line: dict[str, Any]) -> None:
        """Handle a line, in a thread."""
        raise NotImplementedError

    def say(self, line: Any) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(line)}\n")
        self._process.stdin.flush()

    def start(self) -> None:
        """Start the process, and handle its lines as they arrive."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = Thread(target=self._read, name=self._log.stem, daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """End the process, and return once its last line is handled."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.take(json.loads(line))


class Notices(Lines):
    """The process that publishes to a plain topic. What it reports as published exists."""

    def __init__(
        self, phase: Phase, *, seed: int, settings: Mapping[str, object], logs: Path
    ) -> None:
        named = {f"GQLNOTIFY_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "tests.chaos.publishing", str(seed)]
        super().__init__(command, logs / "publisher.log", named)
        self.published: list[Published] = []
        self.cursor: str | None = None
        self.refused = 0
        self._phase = phase

    def hold(self) -> None:
        """Start no publish until `go`."""
        self.say("hold")

    def go(self) -> None:
        """Go on after `hold`."""
        self.say("go")

    @property
    def newest(self) -> int:
        """The newest number that is known to be published."""
        return self.published[-1].number if self.published else 0

    def take(self, line: dict[str, Any]) -> None:
        """See `Lines.take`."""
        if "refused" in line:
            self.refused += 1
        elif self.cursor is None:
            # The cursor after which all clients start.
            self.cursor = line["cursor"]
        else:
            self.published.append(Published(line["number"], self._phase.number))


class Tasks:
    """Creates tasks with increasing numbers as titles, at one server after the other.

    If an answer is lost, only the database knows whether the task was created.
    """

    def __init__(self, phase: Phase, *, seed: int, servers: Sequence[Server]) -> None:
        self.newest = -1
        self.refusals: list[str] = []
        self._phase = phase
        self._phases: list[int] = []
        self._servers = servers
        self._rng = Random(seed)
        self._hurrying = Event()
        self._going = Event()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="tasks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.go()
        self._thread.start()

    def hold(self) -> None:
        """Start no request until `go`."""
        self._going.clear()

    def go(self) -> None:
        """Go on after `hold`."""
        self._going.set()

    def stop(self) -> None:
        """End, and return once the last answer has arrived or is known to be lost."""
        self._stopping.set()
        self.go()
        self._thread.join()

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Make no pauses."""
        self._hurrying.set()
        try:
            yield
        finally:
            self._hurrying.clear()

    def published(self, titles: Sequence[str]) -> list[Published]:
        """Return the published events, given the tasks in the order of their creation."""
        return [Published(int(title), self._phases[int(title)]) for title in titles]

    def _run(self) -> None:
        with httpx.Client(headers=headers(), timeout=PATIENCE) as http:
            for number, server in zip(count(), cycle(self._servers), strict=False):
                self._going.wait()
                if self._stopping.is_set():
                    return
                self._phases.append(self._phase.number)
                self._make(http, server, number)
                if not self._hurrying.is_set():
                    self._stopping.wait(self._rng.uniform(0, 2 * _PAUSE))

    def _make(self, http: httpx.Client, server: Server, number: int) -> None:
        body = {"query": _CREATE, "variables": {"title": str(number)}}
        try:
            answer = http.post(f"{server.http}/graphql", json=body)
        except httpx.TransportError:
            return
        if answer.status_code == 200 and "errors" not in answer.json():
            self.newest = number
        else:
            self.refusals.append(f"task {number}: {answer.status_code} {answer.text}")


class Clients(Lines):
    """A process of several graphql-ws clients, each of which follows every stream.

    Every other client is unchanged, and resumes without a cursor.
    """

    def __init__(
        self,
        phase: Phase,
        *,
        number: int,
        servers: Sequence[Server],
        after: Mapping[str, str | None],
        logs: Path,
    ) -> None:
        self._servers = [server.http.removeprefix("http://") for server in servers]
        options = {
            "servers": self._servers,
            "clients": number,
            "after": after,
            "topic": NOTICES.name,
            "room": ROOM,
            "secret": SECRET,
        }
        command = ["node", str(CLIENTS / "chaos.mjs"), json.dumps(options)]
        super().__init__(command, logs / "clients.log", {})
        self.number = number
        self.arrivals: dict[tuple[int, str], list[Arrival]] = {
            (client, stream): [] for client in range(number) for stream in STREAMS
        }
        self.broken: list[str] = []
        self._phase = phase
        self._at: dict[int, str | None] = dict.fromkeys(range(number))
        self._newest = dict.fromkeys(self.arrivals, -1)

    def cut(self, clients: Iterable[int]) -> None:
        """Cut the sockets of these clients, whatever they are doing."""
        self.say(list(clients))

    @contextmanager
    def restless(self) -> Iterator[None]:
        """Cut one socket after the other until the block ends."""
        self.say("restless")
        try:
            yield
        finally:
            self.cut([])

    def spread(self) -> None:
        """Send the clients back to their first servers, evenly."""
        self.say("spread")

    def everywhere(self) -> bool:
        """Whether every server has a client."""
        return set(self._at.values()) >= set(self._servers)

    def have(self, goal: Mapping[str, int]) -> bool:
        """Whether all clients have reached these positions in every stream."""
        return all(newest >= goal[stream] for (_, stream), newest in self._newest.items())

    def arrived(self) -> int:
        """Return how many events have arrived in total."""
        return sum(map(len, self.arrivals.values()))

    def take(self, line: dict[str, Any]) -> None:
        """See `Lines.take`."""
        if "at" in line:
            self._at[line["client"]] = line["at"]
            return
        at = line["client"], line["stream"]
        if "broken" in line:
            self.broken.append(f"client {at[0]}, {at[1]}: {line['broken']}")
            return
        number = line.get("number")
        arrival = Arrival(
            self._phase.number, number, line.get("cursor"), begins=line.get("begins", False)
        )
        self.arrivals[at].append(arrival)
        if number is not None:
            self._newest[at] = max(self._newest[at], number)


def event_cursor(server: Server) -> str:
    """Return the cursor to follow the tasks from."""
    answer = httpx.post(f"{server.http}/graphql", headers=headers(), json={"query": _CURSOR})
    return str(answer.json()["data"]["tasks"]["eventCursor"])


def headers() -> dict[str, str]:
    """Return the headers with a token for all rights."""
    return {"Authorization": f"Bearer {token('chaos')}"}


def token(subject: str) -> str:
    """Return a token for all rights that is valid for longer than any run."""
    claims = {
        "sub": subject,
        "exp": int(time.time()) + 24 * 3600,
        "topics": {"subscribe": ["*"], "publish": ["*"]},
    }
    return str(jwt.encode(claims, SECRET, algorithm="HS256"))
