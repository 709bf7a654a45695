"""What an application leaves behind when its clients have left: tasks, readers and generators."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import AsyncGeneratorType
from typing import Any
from weakref import WeakSet

from gqlnotify.event import is_reserved
from gqlnotify.testing.application import Application, name_of
from gqlnotify.testing.bench import Bench
from gqlnotify.testing.clock import settle

_GRACE_SECONDS = 0.1
_LISTED = 3
# One or two may belong to the application as a whole, for example a task that all share.
_MANY = 3
_WATCHED = {AsyncGeneratorType, asyncio.Queue}


class Leftovers:
    """Compares what exists at the end with what existed at the beginning."""

    def __init__(self, bench: Bench, application: Application) -> None:
        self._bench = bench
        self._application = application
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._objects: WeakSet[Any] = WeakSet()
        self._readers: Counter[str] = Counter()
        self._stuck = 0

    def begin(self) -> None:
        """Note what exists already."""
        self._tasks.update(self._running())
        self._objects.update(_objects())
        self._readers = self._count_readers()

    def note_stuck(self) -> None:
        """Note that the application did not return when a client had left."""
        self._stuck += 1

    async def find(self) -> list[tuple[str, str]]:
        """Return what is left over, each with where to look."""
        await settle()
        gc.collect()
        await asyncio.sleep(_GRACE_SECONDS)
        new = [each for each in _objects() if each not in self._objects]
        # What is left in one way is often left in the next ones too, for the same cause.
        ways = (
            *(self._left_tasks(), self._stuck_calls()),
            *(_left_generators(new), self._left_readers(), _left_queues(new)),
        )
        return next((left for way in ways if (left := list(way))), [])

    def _left_tasks(self) -> Iterator[tuple[str, str]]:
        tasks = [task for task in self._running() if task not in self._tasks]
        for name, count in _many(map(name_of, tasks)):
            yield (
                f"{count} tasks run {name}",
                "where this task is created: cancel it in a `finally`, and await it",
            )

    def _left_readers(self) -> Iterator[tuple[str, str]]:
        for topic, count in _many((self._count_readers() - self._readers).elements()):
            yield (
                f"{count} subscribers still read the topic {topic!r}",
                "what keeps the result of `topics.subscribe(...)`: a list, a cache, a task that "
                "iterates over it",
            )

    def _stuck_calls(self) -> Iterator[tuple[str, str]]:
        if self._stuck:
            yield (
                f"{self._stuck} connections did not end after their client had left",
                "a resolver or a hook that waits for something that no longer comes",
            )

    def _running(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._application.tasks if not task.done()]

    def _count_readers(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for manager in self._bench.managers:
            counted.update({n: c for n, c in manager.readers.items() if not is_reserved(n)})
        return counted


def _objects() -> list[Any]:
    """Return the open generators and the queues of this process."""
    # Not subclasses of the queue: those are of libraries, this one included.
    found = [each for each in gc.get_objects() if type(each) in _WATCHED]
    return [each for each in found if type(each) is asyncio.Queue or each.ag_frame is not None]


def _left_generators(new: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for name, count in _many(_place_of(e) for e in new if type(e) is AsyncGeneratorType):
        yield (
            f"{count} generators of {name} are still open",
            "what keeps them: a list, a cache, or a `CancelledError` that is swallowed",
        )


def _left_queues(new: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for _, count in _many(asyncio.Queue for each in new if type(each) is asyncio.Queue):
        yield (
            f"{count} queues (asyncio.Queue) that were made meanwhile still exist",
            "the list or set that a resolver adds its queue to: remove it in a `finally`",
        )


def _many(names: Iterable[Any]) -> list[tuple[Any, int]]:
    """Return the names that occur often, and how often."""
    return [each for each in Counter(names).most_common(_LISTED) if each[1] >= _MANY]


def _place_of(generator: AsyncGeneratorType[Any, Any]) -> str:
    code = generator.ag_code
    return f"{generator.__qualname__} ({code.co_filename}:{code.co_firstlineno})"
