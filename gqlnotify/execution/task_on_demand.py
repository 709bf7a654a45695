"""Runs a coroutine without a task for as long as it does not have to wait.

A task costs more than most executions, and puts each result off to a later tick.
"""

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class TaskOnDemand:
    """Awaited before anything that may wait. The code after that runs in a task.

    Code that waits needs a current task, for example in `asyncio.timeout`.
    """

    __slots__ = ("_in_task",)

    def __init__(self) -> None:
        self._in_task = False

    def __await__(self) -> Generator[None, None, None]:
        if not self._in_task:
            self._in_task = True
            yield


def begin(work: Coroutine[Any, Any, T]) -> T | Coroutine[Any, Any, T]:
    """Run `work` until it awaits its `TaskOnDemand`.

    Returns the result of `work`, or `work` itself if it needs a task.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    assert waits_for is None, "It has to await its TaskOnDemand first"
    return work
