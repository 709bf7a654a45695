"""Tells a cancelled task from a task that awaited something cancelled; work with a deadline."""

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

# The event loop holds tasks weakly.
_running: set["asyncio.Task[Any]"] = set()


class _OnlyOwnCancellation:
    # A class: `contextmanager` makes a generator each time, and each event enters this twice.
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
            # The event loop stops for these, once the client has its answer.
            asyncio.get_running_loop().call_soon(_raise, error)
        logger.error("Application code raised what is not an Exception", exc_info=error)
        raise ExecutionCancelled("The execution was broken off") from error


def _is_left_behind() -> bool:
    """Return whether the event loop has ended: it closes the coroutines that never did."""
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
    """Let nothing pass but an `Exception`, or a `CancelledError` that cancels the current task.

    asyncio raises `CancelledError` also where application code awaits something that was cancelled
    elsewhere, and `except Exception` misses what else the code may raise. The current task, or the
    callback, would then end without an answer for its client. A `KeyboardInterrupt` or `SystemExit`
    still stops the event loop, in its next turn.

    Raises:
        ExecutionCancelled: in place of what must not pass, which is logged.
    """
    return _only_own_cancellation


def own_cancellation_or_close() -> AbstractContextManager[None]:
    """Do what `only_own_cancellation` does around a `yield`, where closing the generator passes."""
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
    """Run `work` in a task of its own and return the future of its result.

    After `seconds` the task is cancelled and the result is that of `on_failure`. The end of the
    task is not awaited: it may ignore its cancellation. Work that cancels its own task, or raises
    something that is no `Exception`, has the result of `on_failure` as well: a `CancelledError`
    from here would cancel the group that waits for it. Cancelling the future cancels the task.

    If `on_failure` raises, the future does.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    task = loop.create_task(work, context=context)
    _running.add(task)

    fail = partial(_set_failure, result, on_failure)

    def give_up() -> None:
        # It may be done with its end not yet noted.
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
