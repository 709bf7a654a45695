"""Tells a cancelled task from a task that awaited something cancelled."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any, TypeVar

from gqlnotify.errors import ExecutionCancelled, ExecutionTimeout

T = TypeVar("T")

logger = logging.getLogger("gqlnotify")

# The event loop holds tasks weakly.
_running: set["asyncio.Task[Any]"] = set()


class _OnlyOwnCancellation:
    # A class: `contextmanager` makes a generator each time, and each event enters this twice.
    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, asyncio.CancelledError):
            return
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return
        logger.error("Application code awaited something that was cancelled", exc_info=error)
        raise ExecutionCancelled("Something that this depends on was cancelled") from error


_only_own_cancellation = _OnlyOwnCancellation()


def only_own_cancellation() -> AbstractContextManager[None]:
    """Let a `CancelledError` pass only if it cancels the current task.

    asyncio raises the same exception where application code awaits something that was cancelled
    elsewhere. The current task would then end without an answer for its client.

    Raises:
        ExecutionCancelled: in place of such a `CancelledError`, which is logged.
    """
    return _only_own_cancellation


def run_within(
    seconds: float,
    work: Coroutine[Any, Any, T],
    on_failure: Callable[[ExecutionTimeout | ExecutionCancelled], T],
    context: Context,
) -> "asyncio.Future[T]":
    """Run `work` in a task of its own and return the future of its result.

    After `seconds` the task is cancelled and the result is that of `on_failure`. The end of the
    task is not awaited: it may ignore its cancellation. Work that cancels its own task, or raises
    something that is no `Exception`, has the result of `on_failure` as well: a `CancelledError`
    from here would cancel the group that waits for it. Cancelling the future cancels the task.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    task = loop.create_task(work, context=context)
    _running.add(task)

    def give_up() -> None:
        # It may be done with its end not yet noted.
        if not result.done() and not task.done():
            result.set_result(on_failure(ExecutionTimeout()))
            task.cancel()

    timer = loop.call_later(seconds, give_up)

    def finish(task: "asyncio.Task[T]") -> None:
        _running.discard(task)
        timer.cancel()
        error = None if task.cancelled() else task.exception()
        if result.done():
            return
        if isinstance(error, Exception):
            result.set_exception(error)
        elif error is not None or task.cancelled():
            result.set_result(on_failure(ExecutionCancelled("The execution was cancelled")))
        else:
            result.set_result(task.result())

    def stop(result: "asyncio.Future[T]") -> None:
        if result.cancelled():
            task.cancel()

    task.add_done_callback(finish)
    result.add_done_callback(stop)
    return result
