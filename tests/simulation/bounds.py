"""How much one process may hold at any time, whatever its clients do."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gqlnotify.execution import group
from gqlnotify.topics import live_topic
from gqlnotify.topics.manager import TopicManager
from gqlnotify.websocket import writer
from tests.simulation.application import NAMES
from tests.simulation.database import Writer
from tests.simulation.history import ROOM_PREFIX
from tests.simulation.network import End
from tests.simulation.redis_link import Line

if TYPE_CHECKING:
    from tests.simulation.process import Process

# What a process has without a client, and for each connection. A connection that ends, or whose
# operation begins again, has two operations for a moment.
_TASKS, _TASKS_EACH = 40, 8
_TIMERS, _TIMERS_EACH, _TIMERS_OF_A_PUBLISH = 60, 12, 2
_SUBSCRIBERS, _SUBSCRIBERS_EACH = 4, 3
_RUNNING, _RUNNING_EACH = 4, 3
# Of connections that have ended, until the broker is asked again.
_CLAIMS = 10
_PUBLISHES = {TopicManager.publish.__qualname__, Writer.write.__qualname__}
_ARRIVALS = {End._arrived.__qualname__, End._taken.__qualname__, Line._arrived.__qualname__}
# Messages of the protocol, and the headers of frames.
_SLACK_BYTES = 4096


def exceeded(process: "Process") -> Iterator[str]:
    """Yield what a process has too much of."""
    connections = process.connections
    for what, found, most in (
        *_of_topics(process, connections),
        *_of_loop(process, connections),
        *_of_links(process),
    ):
        if found > most:
            yield f"{process.name} has {found} {what}, and {connections} connections"


def _of_topics(process: "Process", connections: int) -> Iterator[tuple[str, int, int]]:
    topics = process.topics.live_topics.by_name
    rooms = {name: topic for name, topic in topics.items() if name.startswith(ROOM_PREFIX)}
    yield "topics", len(rooms), len(NAMES)
    for name, topic in rooms.items():
        yield f"buffered events of {name}", len(topic.buffer._events), live_topic.BUFFER_SIZE
        most = _SUBSCRIBERS + _SUBSCRIBERS_EACH * connections
        yield f"subscribers of {name}", len(topic.subscribers), most
    resumptions = process.topics.resumptions
    most = _RUNNING + _RUNNING_EACH * connections
    yield "positions of running operations", len(resumptions._running), most
    yield "claims", len(resumptions._claims), _CLAIMS + most


def _of_loop(process: "Process", connections: int) -> Iterator[tuple[str, int, int]]:
    tasks = asyncio.all_tasks(process.loop)
    # While Redis is away, what the application publishes waits: how much is not up to the library.
    publishing = sum(_name(task.get_coro()) in _PUBLISHES for task in tasks)
    yield "tasks", len(tasks), _TASKS + _TASKS_EACH * connections + publishing
    timers = [timer for timer in process.loop._scheduled if not timer.cancelled()]
    # Data on its way is the network's.
    arriving = sum(_name(timer._callback) in _ARRIVALS for timer in timers)
    most = _TIMERS + _TIMERS_EACH * connections + _TIMERS_OF_A_PUBLISH * publishing
    yield "timers", len(timers) - arriving, most


def _of_links(process: "Process") -> Iterator[tuple[str, int, int]]:
    for link in process.links:
        most = link.high_water + writer.FULL_BYTES + group.BATCH_BYTES + _SLACK_BYTES
        yield f"bytes for {link.name}", link.ends[-1].get_write_buffer_size(), most


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", ""))
