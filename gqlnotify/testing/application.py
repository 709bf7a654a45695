"""An application that runs for a test: its lifespan, and the tasks that it has started."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gqlnotify.event_loop import OnePerLoop
from gqlnotify.testing.clock import settle
from gqlnotify.testing.errors import LeftOver
from gqlnotify.testing.line import Messages

_GRACE_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0

_inside: ContextVar["Application | None"] = ContextVar("gqlnotify_application", default=None)


class Application:
    """Runs the lifespan of an ASGI application while clients are connected to it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.users = 0
        self.state: dict[str, Any] = {}
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        """Every task that the application has started."""
        self._to_app: Messages[Message] = Messages()
        self._answer: asyncio.Future[Message] | None = None
        self._lifespan: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and note the tasks that it starts."""
        self._enter()
        await self._app(scope, receive, send)

    def _enter(self) -> None:
        _Started.of(asyncio.get_running_loop()).follow(asyncio.get_running_loop())
        _inside.set(self)

    async def start(self) -> None:
        """Run the application's startup. Applications without a lifespan have none.

        Raises:
            RuntimeError: the startup has failed.
        """
        self._lifespan = asyncio.create_task(self._run(), name="the application's lifespan")
        answer = await self._tell("lifespan.startup")
        if answer["type"] == "lifespan.startup.failed":
            raise RuntimeError(f"The application's startup failed: {answer.get('message', '')}")

    async def stop(self) -> None:
        """Run the application's shutdown.

        Raises:
            RuntimeError: the shutdown has failed.
        """
        answer = await self._tell("lifespan.shutdown")
        if self._lifespan is not None:
            await asyncio.wait([self._lifespan], timeout=_PATIENCE_SECONDS)
        if answer["type"] == "lifespan.shutdown.failed":
            raise RuntimeError(f"The application's shutdown failed: {answer.get('message', '')}")

    async def left_over(self) -> list[str]:
        """Cancel the tasks of the application that still run, and return what they are."""
        await settle()
        running = self._running()
        if running:
            await asyncio.wait(running, timeout=_GRACE_SECONDS)
            running = self._running()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_GRACE_SECONDS)
        return sorted(name_of(task) for task in running)

    def _running(self) -> list[asyncio.Task[Any]]:
        return [task for task in self.tasks if not task.done() and task is not self._lifespan]

    async def _tell(self, event: str) -> Message:
        """Send one event of the lifespan, and return the answer."""
        assert self._lifespan is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._to_app.put_nowait({"type": event})
        either: list[asyncio.Future[Any]] = [self._answer, self._lifespan]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return self._answer.result() if self._answer.done() else {"type": f"{event}.complete"}

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        # "If an exception is raised [...] the server must continue" (ASGI, Lifespan Protocol): the
        # application has no lifespan, or it has sent a message about the failure before.
        with suppress(Exception):
            await self(scope, self._to_app.get, self._receive_from_app)

    async def _receive_from_app(self, message: Message) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)


class _Started(OnePerLoop):
    """Notes which tasks of an event loop an application has started."""

    def __init__(self) -> None:
        self._follows = False

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._follows:
            return
        self._follows = True
        create_task = loop.create_task

        def noted(work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
            task = create_task(work, **options)
            application = _inside.get()
            if application is not None and options.get("context") is None:
                application.tasks.add(task)
            return task

        replaced: Any = loop
        replaced.create_task = noted


def name_of(task: asyncio.Task[Any]) -> str:
    """Return what a task is, and where its code is."""
    work = task.get_coro()
    code = getattr(work, "cr_code", None)
    name = getattr(work, "__qualname__", repr(work))
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{name}{place}"


def refuse(leftovers: list[str]) -> None:
    """Raise if anything is left over.

    Raises:
        LeftOver: something is.
    """
    __tracebackhide__ = True
    if leftovers:
        lines = "\n".join(f"  - {one}" for one in leftovers)
        raise LeftOver(
            f"The last client has left, and this still runs:\n{lines}\n"
            "Cancel what a resolver or the lifespan starts where it ends, for example in a "
            "`finally`, and await it"
        )
