"""A soak test from start to end, and what the server did wrong."""

import asyncio
import json
import os
import random
import re
import statistics
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.narrow import NARROW
from tests.redis_servers import redis_server
from tests.servers import DIRECT, Server, serving
from tests.soak.followers import Follower, publish
from tests.soak.state import LARGE, SECRET, TOPICS, State
from tests.soak.visitors import keep_visiting
from tests.waiting import SCALE

SAMPLE_SECONDS = 5.0
GROWTH = 0.10
_LEFTOVER_PATIENCE = 60 * SCALE
_ARRIVAL_SECONDS = 0.02
_SETTINGS = {
    "jwt_secret": SECRET,
    # All clients come from one address, for fifty subjects.
    "max_failed_authentications": 10**9,
    "max_connections_per_subject": 10**6,
    "new_topics_per_subject": 10**6,
    "connection_init_wait": 10,
    # Short, but long enough for healthy peers on a busy machine.
    "ping_interval": 10,
    "ping_timeout": 20,
    "send_timeout": 5,
    "outgoing_max_bytes": 256 * 1024,
    "topic_linger": 2,
    # Full soon, so that later growth is a leak.
    "history_length": 400,
}
_BAD_LINES = ("ERROR", "CRITICAL", "Traceback")
# uvicorn's own log line for a client that sent bad UTF-8, whose socket it closes with 1007.
_EXPECTED = re.compile(
    r"^ERROR: +Invalid UTF-8 sequence received from client\.\nTraceback .*\n(?: .*\n)*Unicode.*\n",
    re.MULTILINE,
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """The number of clients, the duration, and the server."""

    minutes: float = 20
    connections: int = 1000
    events_per_second: float = 50
    direct: bool = True
    redis: bool = False
    seed: int = 0


@dataclass
class Report:
    """The result of a run."""

    seconds: float = 0
    samples: list[tuple[float, int]] = field(default_factory=list)
    before: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the server did nothing wrong."""
        return not self.problems

    def rss(self, begin: float, end: float) -> float:
        """Return the median of the bytes resident between two moments; 0 where none were seen."""
        seen = [rss for at, rss in self.samples if begin <= at <= end]
        return statistics.median(seen) if seen else 0.0

    def __str__(self) -> str:
        rows = [(name, str(count)) for name, count in sorted(self.counts.items())]
        rows += [(f"held: {k}", f"{self.before.get(k, 0)} -> {v}") for k, v in self.after.items()]
        minutes = range(1, int(self.seconds // 60) + 1)
        rows += [(f"RSS, minute {n}", _mib(self.rss(60 * n - 60, 60 * n))) for n in minutes]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


async def soak(plan: Plan, logs: Path, *, progress: Progress = lambda _: None) -> Report:
    """Run a server and its clients, and report what remained."""
    report = Report()
    with redis_server() if plan.redis else nullcontext() as redis:
        settings = _SETTINGS | ({"broker_url": redis.url} if redis else {})
        arguments = DIRECT if plan.direct else ()
        with serving("tests.soak.app:app", logs, *arguments, program=NARROW, **settings) as server:
            report.before = await asyncio.to_thread(_held, server)
            await _run_clients(plan, server, report, progress)
            await _check_leftovers(server, report, spare=_spare(redis is not None))
        report.problems += _logged(server)
    return report


async def _run_clients(plan: Plan, server: Server, report: Report, progress: Progress) -> None:
    state = State(server.port, random.Random(plan.seed))
    report.counts, report.problems = state.counts, state.problems
    sampling = asyncio.create_task(_sample(server, report, progress))
    followers = _publishers(plan, state)
    visitors: list[asyncio.Task[None]] = []
    for _ in range(plan.connections // 2):
        followers.append(asyncio.create_task(Follower(state).stay()))
        visitors.append(asyncio.create_task(keep_visiting(state)))
        await asyncio.sleep(_ARRIVAL_SECONDS)
    # No client ends before the end, unless it fails.
    await asyncio.wait(
        [*followers, *visitors],
        timeout=plan.minutes * 60,
        return_when=asyncio.FIRST_EXCEPTION,
    )
    report.seconds = report.samples[-1][0] if report.samples else 0.0
    report.counts["CPU seconds of the server"] = round(_cpu(server))
    report.counts["CPU seconds of the peers"] = round(time.process_time())
    sampling.cancel()
    _judge_growth(report)
    state.closing.set()
    await state.wait_for_end("visitors", visitors)
    state.last_events.set()
    await state.wait_for_end("followers", followers)


def _publishers(plan: Plan, state: State) -> "list[asyncio.Task[None]]":
    rates = {name: plan.events_per_second * 0.9 / (len(TOPICS) - 1) for name in TOPICS}
    rates[LARGE] = plan.events_per_second * 0.1
    return [
        asyncio.create_task(publish(state, name, per_second=rate)) for name, rate in rates.items()
    ]


async def _sample(server: Server, report: Report, progress: Progress) -> None:
    began, most = time.monotonic(), "most file descriptors"
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        at, (rss, open_) = time.monotonic() - began, _sizes(server)
        report.samples.append((at, rss))
        report.counts[most] = max(report.counts[most], open_)
        followed = report.counts["events followed"]
        progress(f"{at:6.0f} s  RSS {_mib(rss)}, {open_} open files, {followed} events followed")


def _sizes(server: Server) -> tuple[int, int]:
    """Return the bytes that are resident, and the number of open files."""
    assert server.process is not None
    process = Path(f"/proc/{server.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(process / "fd"))


def _cpu(server: Server) -> float:
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _judge_growth(report: Report) -> None:
    """Compare the memory of the last minute with that of the second one, if they differ."""
    if report.seconds < 180 - 2 * SAMPLE_SECONDS:
        return
    first = report.rss(60, 120)
    last = report.rss(report.seconds - 60, report.seconds)
    report.counts["RSS, growth in percent"] = round((last / first - 1) * 100)
    if last > first * (1 + GROWTH):
        report.problems.append(f"memory grew from {_mib(first)} to {_mib(last)}")


async def _check_leftovers(server: Server, report: Report, *, spare: int) -> None:
    """Wait until the server holds the same as at the start; report a problem after some time."""
    deadline = time.monotonic() + _LEFTOVER_PATIENCE
    while True:
        report.after = await asyncio.to_thread(_held, server)
        left = {
            what: f"{report.before.get(what, 0)} -> {count}"
            for what, count in report.after.items()
            if count > report.before.get(what, 0) + (spare if what == "file descriptors" else 0)
        }
        if not left:
            return
        if time.monotonic() > deadline:
            report.problems.append(f"left over: {left}")
            return
        await asyncio.sleep(0.5)


def _spare(redis: bool) -> int:
    # The pool of Redis connections grew under load, and keeps them.
    return 50 if redis else 0


def _held(server: Server) -> dict[str, int]:
    with urllib.request.urlopen(f"{server.http}/held", timeout=30) as answer:
        held: dict[str, int] = json.load(answer)
    return held


def _logged(server: Server) -> Sequence[str]:
    lines = _EXPECTED.sub("", server.log).splitlines()
    bad = [line for line in lines if any(sign in line for sign in _BAD_LINES)]
    return list(dict.fromkeys([*bad, *server.trouble]))


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
