"""What is measured: each scenario takes a fresh server and returns figures by their names."""

import json
import secrets
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from jose import jwt

from benchmarks.harness import HOST, Cores, Failed, Session, load_client, session
from benchmarks.servers import Server

Figures = dict[str, float]

BURST = 50
MISSED = 20

_COMEBACKS = 3
_FIRST = 10  # what a server sets up once is not a connection's; few, for their memory is used again


@dataclass(frozen=True)
class Scale:
    """How many clients, and how long."""

    sizes: tuple[int, ...] = (1, 100, 1000, 5000)
    many: int = 1000
    seconds: float = 0.4
    warm: float = 0.2
    per_second: float = 2.0
    rated: int = 5

    @property
    def milliseconds(self) -> int:
        """How long a measurement may begin new rounds."""
        return int(self.seconds * 1000)


QUICK = Scale(sizes=(1, 100), many=100, seconds=0.3, warm=0.1, rated=4)


def deliver(server: Server, cores: Cores, scale: Scale) -> Figures:
    """One document, the same variables: one event at a time, bursts, as many as may be, a rate."""
    found: Figures = {}
    with session(server, cores) as s:
        s.enter_room()
        _warm(s, scale)
        spent, answer = s.spent("rounds", 1000, 1, 1, scale.milliseconds)
        found["publish"] = spent / answer["rounds"]
        connected = 0
        for size in scale.sizes:
            s.connect(size - connected)
            connected = size
            _warm(s, scale)
            found[f"single/{size}"] = _per_delivery(s, scale, events=1)
            if size == scale.many:
                found |= _bursts(s, scale) | _at_a_rate(s, scale)
    return found


def different(server: Server, cores: Cores, scale: Scale) -> Figures:
    """Each subscriber has variables of its own: there is nothing to share."""
    with session(server, cores) as s:
        s.enter_room(different=True)
        s.connect(scale.many)
        _warm(s, scale)
        return {"different": _per_delivery(s, scale, events=1)}


def connect(server: Server, cores: Cores, scale: Scale) -> Figures:
    """Connect, connection_init and subscribe, and what is then kept of it in memory."""
    with session(server, cores) as s:
        spent, kept = _connect_many(s, scale)
        return {"connect": spent, "memory": kept}


def token(server: Server, cores: Cores, scale: Scale) -> Figures:
    """The same with a token to be checked; without a good one nobody may come in."""
    if not server.checks_tokens:
        return {}
    secret = secrets.token_urlsafe(32)
    with session(server, cores, secret=secret, token=_token(secret)) as s:
        _refuses_a_bad_token(s, cores)
        spent, _ = _connect_many(s, scale)
        return {"connect_token": spent}


def comeback(server: Server, cores: Cores, scale: Scale) -> Figures:
    """All clients lose their connections, miss some events and come back with their cursors."""
    if not server.resumes:
        return {}
    with session(server, cores, count=True) as s:
        s.enter_room(resume=True)
        s.connect(scale.many)
        _come_back(s, scale, missed=0)
        before, spent, nothing_missed = _executions(s), 0.0, 0.0
        for _ in range(_COMEBACKS):
            nothing_missed += _come_back(s, scale, missed=0)
            spent += _come_back(s, scale, missed=MISSED)
        events = _COMEBACKS * scale.many * MISSED
        return {
            "replay": (spent - nothing_missed) / events,
            "replay_with_subscribe": spent / events,
            "executions": (_executions(s) - before) / _COMEBACKS,
        }


Scenario = Callable[[Server, Cores, Scale], Figures]

SCENARIOS: dict[str, Scenario] = {
    "deliver": deliver,
    "different": different,
    "connect": connect,
    "token": token,
    "return": comeback,
}


def _warm(s: Session, scale: Scale) -> None:
    s.load.ask("rounds", 100_000, 1, 1, int(scale.warm * 1000))


def _per_delivery(s: Session, scale: Scale, *, events: int) -> float:
    spent, answer = s.spent("rounds", 100_000, events, 1, scale.milliseconds)
    return spent / float(answer["received"])


def _bursts(s: Session, scale: Scale) -> Figures:
    per_delivery = _per_delivery(s, scale, events=BURST)
    # Two halves on the way at any time, so that the server never waits for the client.
    answer = s.load.ask("rounds", 100_000, BURST // 2, 2, scale.milliseconds)
    return {
        "burst": per_delivery,
        "throughput": answer["received"] / answer["ns"] * 1e9,
        "bytes": answer["bytes"] / answer["received"],
    }


def _at_a_rate(s: Session, scale: Scale) -> Figures:
    s.calm()
    period = 1 / scale.per_second
    answer = s.load.ask("rate", scale.rated, int(period * 1e6))
    overtime = answer["ns"] / 1e9 - period * (scale.rated - 1)
    kept_up = overtime < period and answer["late_ms"] < period * 100
    return {"p50": answer["p50_ms"], "p99": answer["p99_ms"], "kept_up": float(kept_up)}


def _connect_many(s: Session, scale: Scale) -> tuple[float, float]:
    """Return microseconds and bytes for each connection."""
    s.enter_room()
    s.connect(_FIRST)
    s.load.ask("close")
    s.calm()
    before = s.memory()
    spent, _ = s.spent_until_calm("connect", scale.many, 32)
    kept = s.memory() - before
    s.hear_one()
    return spent / scale.many, kept / scale.many


def _token(secret: str) -> str:
    rights = {"subscribe": ["*"], "publish": ["*"]}
    claims = {"sub": "bench", "exp": int(time.time()) + 3600, "topics": rights}
    return str(jwt.encode(claims, secret, algorithm="HS256"))


def _refuses_a_bad_token(s: Session, cores: Cores) -> None:
    with load_client(s.port, cores) as load:
        stranger = Session(s.server, s.pid, s.port, load, _token(secrets.token_urlsafe(32)))
        stranger.enter_room()
        try:
            load.ask("connect", 1, 1)
        except Failed:
            return
    raise Failed("it lets in who has no good token")


def _come_back(s: Session, scale: Scale, *, missed: int) -> float:
    """Return the microseconds of CPU from the first `subscribe` to the last missed event."""
    s.load.ask("drop")
    s.calm()
    if missed:
        s.load.ask("post", missed)
    s.load.ask("join", scale.many, 32)
    s.calm()
    before = s.cpu()
    s.load.ask("ask")
    s.load.ask("wait", missed)
    s.calm()
    return (s.cpu() - before) / 1000


def _executions(s: Session) -> float:
    request = urllib.request.Request(
        f"http://{HOST}:{s.port}/graphql",
        data=b'{"query":"{ executions }"}',
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return float(json.load(response)["data"]["executions"])
