"""The faults. Each is over when its function returns; recovery may take longer."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from tests.chaos.app import DIE_COMMITTED, DIE_PUBLISHED
from tests.chaos.stage import Replica, Stage
from tests.redis_servers import Link

_WAITING = "Waiting for the broker"

Happen = Callable[[Stage, Random], None]


@dataclass(frozen=True)
class Fault:
    """A fault, and whether Redis loses data by it."""

    name: str
    happen: Happen
    forgets: bool = False


FAULTS: list[Fault] = []
"""The faults that must not lose any event."""


def fault(name: str) -> Callable[[Happen], Happen]:
    """Add a fault to `FAULTS`."""

    def add(happen: Happen) -> Happen:
        FAULTS.append(Fault(name, happen))
        return happen

    return add


@fault("Redis restarted")
def redis_restarted(stage: Stage, rng: Random) -> None:
    stage.redis.stop()
    stage.go_on(rng.randint(0, 20))
    stage.redis.start()


@fault("Redis killed")
def redis_killed(stage: Stage, rng: Random) -> None:
    stage.redis.kill()
    stage.go_on(rng.randint(0, 20))
    stage.redis.start()


@fault("Redis stopped and continued")
def redis_stopped(stage: Stage, rng: Random) -> None:
    with _paused(stage), stage.given_up(*stage.replicas, publisher=True):
        stage.go_on(rng.randint(0, 20))


@fault("Redis kills Pub/Sub connections")
def pubsub_killed(stage: Stage, rng: Random) -> None:
    _kill_connections(stage, rng, "pubsub")


@fault("Redis kills other connections")
def others_killed(stage: Stage, rng: Random) -> None:
    _kill_connections(stage, rng, "normal")


@fault("server's link half-open")
def link_frozen(stage: Stage, rng: Random) -> None:
    replica = rng.choice(stage.replicas)
    with _frozen(replica.link), stage.given_up(replica):
        stage.go_on(rng.randint(0, 20))


@fault("server's link cut")
def link_cut(stage: Stage, rng: Random) -> None:
    replica = rng.choice(stage.replicas)
    for _ in range(rng.randint(1, 5)):
        replica.link.cut()
        stage.go_on(rng.randint(1, 5))


@fault("publisher's link half-open")
def publisher_frozen(stage: Stage, rng: Random) -> None:
    with _frozen(stage.publisher_link), stage.given_up(publisher=True):
        stage.go_on(rng.randint(0, 20))


@fault("publisher's link cut")
def publisher_cut(stage: Stage, rng: Random) -> None:
    for _ in range(rng.randint(1, 5)):
        stage.publisher_link.cut()
        stage.go_on(rng.randint(1, 5))


@fault("server killed")
def server_killed(stage: Stage, rng: Random) -> None:
    replica = rng.choice(stage.replicas)
    replica.server.stop(signal.SIGKILL)
    stage.go_on(rng.randint(0, 20))
    replica.server.start()


@fault("server restarted")
def server_restarted(stage: Stage, rng: Random) -> None:
    replica = rng.choice(stage.replicas)
    replica.server.stop()
    replica.server.start()


@fault("server killed, Redis stopped")
def server_killed_without_redis(stage: Stage, rng: Random) -> None:
    """The clients reconnect to a server that can't reach the Redis with their missed events."""
    dying, *others = rng.sample(list(stage.replicas), len(stage.replicas))
    with _paused(stage), stage.given_up(*others):
        stage.go_on(rng.randint(0, 20))
        dying.server.stop(signal.SIGKILL)
    dying.server.start()


@fault("server up before Redis")
def server_up_before_redis(stage: Stage, rng: Random) -> None:
    replica = rng.choice(stage.replicas)
    replica.server.stop()
    stage.redis.stop()
    seen = len(replica.server.log)
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(replica.server.start)
        try:
            stage.wait_for(
                lambda: starting.done() or _WAITING in replica.server.log[seen:],
                "the server waits for Redis",
            )
            stage.go_on(rng.randint(0, 20))
        finally:
            stage.redis.start()
        starting.result()


@fault("outbox dies before it publishes")
def outbox_died_committed(stage: Stage, rng: Random) -> None:
    _have_it_die(stage, rng.choice(stage.replicas), DIE_COMMITTED)


@fault("outbox dies after it published")
def outbox_died_published(stage: Stage, rng: Random) -> None:
    _have_it_die(stage, rng.choice(stage.replicas), DIE_PUBLISHED)


@fault("sockets of clients cut")
def sockets_cut(stage: Stage, rng: Random) -> None:
    for _ in range(rng.randint(5, 20)):
        stage.clients.cut(rng.sample(range(stage.clients.number), rng.randint(1, 3)))
        stage.take_more(rng.randint(0, 50))


def _flush(stage: Stage, rng: Random) -> None:
    stage.redis.ask("FLUSHALL")
    stage.go_on(rng.randint(1, 20))


FLUSH = Fault("Redis flushed", _flush, forgets=True)
"""Every client must learn of a gap, so this fault is not part of the other runs."""


@contextmanager
def _paused(stage: Stage) -> Iterator[None]:
    stage.redis.pause()
    try:
        yield
    finally:
        stage.redis.resume()


@contextmanager
def _frozen(link: Link) -> Iterator[None]:
    link.freeze()
    try:
        yield
    finally:
        link.thaw()


def _kill_connections(stage: Stage, rng: Random, kind: str) -> None:
    for _ in range(rng.randint(1, 3)):
        stage.wait_for(
            lambda: stage.redis.ask("CLIENT", "KILL", "TYPE", kind) > 0, f"there are {kind} ones"
        )
        stage.go_on(rng.randint(1, 5))


def _have_it_die(stage: Stage, replica: Replica, how: int) -> None:
    os.kill(replica.pid, how)
    stage.wait_for(replica.died, "the server dies")
    replica.server.stop()
    replica.server.start()
