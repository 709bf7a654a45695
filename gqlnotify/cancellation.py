"""Tells a cancelled task from one that awaited something cancelled; runs work with a deadline."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

from gqlnotify.errors import ExecutionCancelled, ExecutionTimeout

T = TypeVar("T")
Failure = ExecutionTimeout | ExecutionCancelled

logger = logging.getLogger("gqlnotify")

# asyncio keeps only weak references to tasks.
_running: set["asyncio.Task[Any]"] = set()


class _OnlyOwnCancellation:
    # A class, because `contextmanager` creates a generator for each use, and each event uses it
    # twice.
    def __init__(self, passes: type[BaseException] | tuple[type[BaseException], ...]) -> None:
        self._passes = passes

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or isinstance(error, self._passes) or _is_left_behind():
            return
        if isinstance(error, asyncio.CancelledError):
            _raise_unless_own(error)
            return
        if isinstance(error, KeyboardInterrupt | SystemExit):
            # In the next tick, so that the client gets its answer before the event loop stops.
            asyncio.get_running_loop().call_soon(_raise, error)
        logger.error("Application code raised a BaseException", exc_info=error)
        raise ExecutionCancelled("The execution was aborted") from error


def _is_left_behind() -> bool:
    """Return whether the event loop has ended. It then closes coroutines that have not ended."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _raise_unless_own(error: asyncio.CancelledError) -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return
    logger.error("Application code awaited something that was cancelled", exc_info=error)
    raise ExecutionCancelled("Something that this depends on was cancelled") from error


def _raise(error: BaseException) -> None:
    raise error


_only_own_cancellation = _OnlyOwnCancellation(Exception)
_own_cancellation_or_close = _OnlyOwnCancellation((Exception, GeneratorExit))


def only_own_cancellation() -> AbstractContextManager[None]:
    """Turn each error that would end the current task by mistake into `ExecutionCancelled`.

    An `Exception` passes, and so does a `CancelledError` that cancels the current task. asyncio
    also raises `CancelledError` if application code awaits something that was cancelled elsewhere,
    and code may raise another `BaseException`. `except Exception` misses both, so the task or
    callback would end without an answer for the client. A `KeyboardInterrupt` or `SystemExit` still
    stops the event loop, in its next tick.

    Raises:
        ExecutionCancelled: In place of the other errors, which are logged.
    """
    return _only_own_cancellation


def own_cancellation_or_close() -> AbstractContextManager[None]:
    """Do the same as `only_own_cancellation` around a `yield`: closing the generator passes too."""
    return _own_cancellation_or_close


def _set_failure(
    result: "asyncio.Future[T]",
    on_failure: Callable[[Failure], T],
    failure: Failure,
) -> None:
    try:
        with only_own_cancellation():
            result.set_result(on_failure(failure))
    except Exception as error:
        result.set_exception(error)


def run_within(
    seconds: float,
    work: Coroutine[Any, Any, T],
    on_failure: Callable[[Failure], T],
    context: Context,
) -> "asyncio.Future[T]":
    """Run `work` in a new task and return the future of its result.

    After `seconds` the task is cancelled, and the result is what `on_failure` returns. Nothing
    waits for the end of the task, because it may ignore its cancellation. If `work` cancels its own
    task, or raises something other than an `Exception`, the result is also that of `on_failure`: a
    `CancelledError` from this future would cancel the group that awaits it. Cancelling the future
    cancels the task.

    If `on_failure` raises an error, so does the future.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    task = loop.create_task(work, context=context)
    _running.add(task)

    fail = partial(_set_failure, result, on_failure)

    def give_up() -> None:
        # The task may have ended in this tick, with `finish` still to be called.
        if not result.done() and not task.done():
            fail(ExecutionTimeout())
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
            fail(ExecutionCancelled("The execution was cancelled"))
        else:
            result.set_result(task.result())

    def stop(result: "asyncio.Future[T]") -> None:
        if result.cancelled():
            task.cancel()

    task.add_done_callback(finish)
    result.add_done_callback(stop)
    return result
