"""Runs an application's own subscriptions through faults, and reports what its readers notice."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from math import ceil

from starlette.types import ASGIApp

from gqlnotify.testing.application import Application
from gqlnotify.testing.audit import (
    audit,
    could_not_come_back,
    crowded_out,
    no_event,
    nobody_got,
    unread,
)
from gqlnotify.testing.bench import Bench
from gqlnotify.testing.client import Client, connect
from gqlnotify.testing.clock import settle
from gqlnotify.testing.errors import Disconnected, LeftOver, NothingArrived, OperationFailed
from gqlnotify.testing.leftovers import Leftovers
from gqlnotify.testing.reader import (
    BY_ITSELF,
    CONTROL,
    QUITTER,
    WITH_CURSORS,
    Operation,
    Reader,
    Truth,
    Viewer,
)
from gqlnotify.testing.report import Kind, Problem, Report
from gqlnotify.testing.tokens import claims_of
from gqlnotify.testing.viewers import Viewers

logger = logging.getLogger("gqlnotify.testing")

_TOO_MANY = 4429

_ALONE = "only this viewer was connected"
_TOGETHER = "all viewers were connected, and nothing was disturbed"
_CUT = "the line was cut, an event came, and the client reconnected"
_LONG = "the line was cut, {missed} events came, and the client reconnected"
_HALF_OPEN = "the client reconnected while the server still believed in its first connection"
_SLOW = "the client read nothing while {missed} events came"
_COMPLETE = "another reader of the same operation sent `complete`"
_EXPIRY = "the token expired, an event came, and the client reconnected with a fresh one"
_RESTART = "the broker lost live events and restarted"
_CROWD = "{crowd} clients were connected at the same time"
_EVERYBODY_LEFT = "all clients had left"

_PATIENCE_SECONDS = 0.3
_SECONDS_TO_CAUSE = 3.0
# The longest that a server waits between two questions to a busy client.
_ACKNOWLEDGED_SECONDS = 2.0
_PAUSE_SECONDS = 0.001
_ROUNDS = 50
_FEW = 3
_ATTEMPTS = 5
# What differs between the rounds does not depend on the viewer alone.
_ROUNDS_ALONE = 2
_QUIET = 2
_BREAKS = (Disconnected, NothingArrived, OperationFailed, RuntimeError)


async def chaos(
    app: ASGIApp,
    operations: Sequence[Operation],
    *,
    viewers: Sequence[str] = (),
    path: str = "/graphql",
    missed: int = 120,
    crowd: int = 40,
) -> Report:
    """Run `operations` through cuts, restarts, expiries and slow readers, and report what is wrong.

    It notices events that are lost, repeated, out of order or leaked to another viewer, and
    readers, tasks and generators that are left over. What a client should get is what those get,
    for the same operation and viewer, whose lines are never cut.

    Args:
        app: the application.
        operations: its subscriptions, each with a function that makes an event.
        viewers: the tokens of the readers. Pass two or more to find leaks between viewers.
        path: where the router is.
        missed: how many events a client misses at most. Take more than a page of your resolvers.
        crowd: how many clients are connected at the same time. Take more than your pools hold.
    """
    bench = Bench.of_this_test()
    bench.enter_loop()
    application = await bench.enter(app)
    run = _Run(bench, application, app, operations, [_viewer(token) for token in viewers], path)
    try:
        await run.all_steps(missed, crowd)
    finally:
        await bench.leave(app)
    return run.report


def _viewer(token: str) -> Viewer:
    return Viewer(token, str(claims_of(token).get("sub")))


class _Stuck(Exception):
    """The application can't go on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class _Patience:
    """How long to wait for something that may not come. A busy machine gets more time."""

    def __init__(self) -> None:
        self.rounds = 0
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.rounds >= _ROUNDS and time.monotonic() - self._began > _PATIENCE_SECONDS


async def _while_growing(connected: Sequence[Client], count: int) -> None:
    """Wait until there are `count` clients, or until no more of them get in."""
    patience, known = _Patience(), 0
    while len(connected) < count and not patience.is_over:
        if len(connected) > known:
            patience, known = _Patience(), len(connected)
        patience.rounds += 1
        await settle()
        await asyncio.sleep(_PAUSE_SECONDS)


class _Run:
    """One run of `chaos`."""

    def __init__(
        self,
        bench: Bench,
        application: Application,
        app: ASGIApp,
        operations: Sequence[Operation],
        viewers: Sequence[Viewer],
        path: str,
    ) -> None:
        self.report = Report()
        self._bench = bench
        self._app = app
        self._operations = operations
        self._viewers = viewers or [Viewer()]
        self._path = path
        self._leftovers = Leftovers(bench, application)
        self._leaks = Viewers(self._viewers, self.report)
        self._truths = {(o, v): Truth() for o in operations for v in self._viewers}
        self._readers: list[Reader] = []
        self._clients = AsyncExitStack()
        self._turn = 0
        self._caused = 0
        self._step = ""
        self._refused = 0

    async def all_steps(self, missed: int, crowd: int) -> None:
        self._leftovers.begin()
        for _ in range(_ROUNDS_ALONE):
            for viewer in self._viewers:
                await self._alone(viewer)
        self._find_unread()
        try:
            await self._disturb(missed)
            await self._leave()
            await self._crowd(crowd)
        except _Stuck as stuck:
            self.report.add(stuck.problem)
        finally:
            await self._leave()
        await self._look_for_leftovers()

    async def _disturb(self, missed: int) -> None:
        self._begin(_TOGETHER)
        await self._join()
        await self._warm_up()
        await self._do(_TOGETHER, self._disturb_nothing)
        await self._do(_COMPLETE, self._complete)
        await self._do(_CUT, self._cut(1))
        await self._do(_LONG.format(missed=missed), self._cut(missed))
        await self._do(_HALF_OPEN, self._cut(1, noticed=False))
        await self._do(_SLOW.format(missed=missed), self._be_slow(missed))
        if self._viewers[0].token is not None:
            await self._do(_EXPIRY, self._expire)
        await self._do(_RESTART, self._restart_broker)

    async def _do(self, step: str, disturb: Callable[[], Awaitable[None]]) -> None:
        self._begin(step)
        await disturb()
        await self._cause(1)
        await self._audit()

    def _begin(self, step: str) -> None:
        self._step = step
        if step not in self.report.steps:
            self.report.steps.append(step)

    # What is done to the application.

    async def _alone(self, viewer: Viewer) -> None:
        """Measure how many results an event makes, and what the viewer gets without company."""
        self._begin(_ALONE)
        async with self._client(viewer) as client:
            for operation in self._operations:
                await self._reader(operation, viewer, client, CONTROL)
            await self._cause(_FEW, patiently=True)
            for reader in self._readers:
                reader.truth.rate = len(reader.truth.since(self._turn)) / _FEW
                reader.truth.error = reader.errors[0] if reader.errors else None
                reader.truth.is_armed = reader.is_armed
        self._readers.clear()

    def _find_unread(self) -> None:
        for operation in self._operations:
            truths = [self._truths[operation, viewer] for viewer in self._viewers]
            if not any(truth.rate for truth in truths):
                self.report.add(unread(operation, truths[0].error, self._step))

    async def _join(self) -> None:
        for operation in self._operations:
            for viewer in self._viewers:
                await self._join_as(operation, viewer)

    async def _join_as(self, operation: Operation, viewer: Viewer) -> None:
        truth = self._truths[operation, viewer]
        if not truth.rate:
            # It may not read, or no event is for it.
            return
        shared = await self._open(viewer)
        await self._reader(operation, viewer, shared, CONTROL)
        await self._reader(operation, viewer, shared, QUITTER)
        roles = [QUITTER, WITH_CURSORS]
        if truth.is_armed and operation.resume is None:
            roles.append(BY_ITSELF)
        for role in roles:
            await self._reader(operation, viewer, await self._open(viewer), role)

    async def _disturb_nothing(self) -> None:
        await self._cause(_FEW)

    def _cut(self, count: int, *, noticed: bool = True) -> Callable[[], Awaitable[None]]:
        async def cut() -> None:
            await self._let_acknowledge()
            for reader in self._victims():
                await reader.client.cut(noticed=noticed)
                reader.is_attached = False
            await self._cause(count)
            await self._come_back()

        return cut

    async def _let_acknowledge(self) -> None:
        """Let the server ask the clients what they have, which it does now and then.

        Else it depends on the speed of the machine whether a client gets the events that it has
        missed, or has nothing yet and gets the snapshot of a live list.
        """
        # With uvloop the clock can't be moved.
        with suppress(RuntimeError):
            await self._bench.clock.advance(_ACKNOWLEDGED_SECONDS)

    def _be_slow(self, count: int) -> Callable[[], Awaitable[None]]:
        async def be_slow() -> None:
            with ExitStack() as slow:
                for reader in self._victims():
                    slow.enter_context(reader.client.slow_reader())
                    reader.is_attached = False
                await self._cause(count)
            for reader in self._victims():
                reader.is_attached = True

        return be_slow

    async def _complete(self) -> None:
        for reader in self._readers:
            if reader.role == QUITTER:
                await reader.stop()
        self._readers = [reader for reader in self._readers if reader.role != QUITTER]
        await self._cause(1)
        # If the others are mute now, only a new reader shows what there is to get.
        for reader in list(self._readers):
            if reader.role != CONTROL:
                continue
            client = await self._open(reader.viewer)
            await self._reader(reader.operation, reader.viewer, client, CONTROL)
        await self._warm_up()

    async def _expire(self) -> None:
        for reader in self._victims():
            # If the test can't sign tokens of this application, the line is cut instead.
            with suppress(ValueError, *_BREAKS):
                await reader.client.expire_token()
            if not reader.client.is_lost:
                await reader.client.cut()
            reader.is_attached = False
        await self._cause(1)
        await self._come_back()

    async def _restart_broker(self) -> None:
        async with self._bench.broker.losing_live_events():
            await self._cause(1, waits=False)
        await self._bench.broker.restart()

    async def _come_back(self) -> None:
        for reader in self._victims():
            try:
                await reader.come_back(self._turn)
            except _BREAKS as error:
                self.report.add(could_not_come_back(reader, error, self._step))
                await self._replace(reader)

    async def _crowd(self, count: int) -> None:
        self._begin(_CROWD.format(crowd=count))
        for operation in self._operations:
            for viewer in self._viewers[:1]:
                if self._truths[operation, viewer].rate:
                    await self._crowd_of(operation, viewer, count)

    async def _crowd_of(self, operation: Operation, viewer: Viewer, count: int) -> None:
        connected: list[Client] = []
        leave = asyncio.Event()
        self._refused = 0
        members = [asyncio.create_task(self._stay(viewer, connected, leave)) for _ in range(count)]
        await _while_growing(connected, count)
        await asyncio.gather(
            *(self._reader(operation, viewer, client, CONTROL) for client in list(connected))
        )
        try:
            await self._warm_up()
            served = sum(reader.joined is not None for reader in self._readers)
        finally:
            self._readers.clear()
            leave.set()
            await asyncio.wait(members)
        # A limit of the application is no fault.
        count -= self._refused
        if served < count:
            self.report.add(crowded_out(operation, viewer, served, count, self._step))

    # Clients and readers.

    @asynccontextmanager
    async def _client(self, viewer: Viewer) -> AsyncIterator[Client]:
        try:
            async with connect(self._app, token=viewer.token, path=self._path) as client:
                yield client
        except LeftOver:
            self._leftovers.note_stuck()

    async def _open(self, viewer: Viewer) -> Client:
        return await self._clients.enter_async_context(self._client(viewer))

    async def _stay(self, viewer: Viewer, connected: list[Client], leave: asyncio.Event) -> None:
        """Connect, and stay until all leave. Without room in the application, this is in vain."""
        try:
            async with self._client(viewer) as client:
                connected.append(client)
                await leave.wait()
        except Disconnected as end:
            self._refused += end.code == _TOO_MANY
        except Exception:
            # The application failed. The client counts as one without an event.
            logger.debug("A client of the crowd could not connect", exc_info=True)

    async def _reader(
        self, operation: Operation, viewer: Viewer, client: Client, role: str
    ) -> Reader:
        truth = self._truths[operation, viewer]
        reader = Reader(operation, viewer, truth, client, role)
        await reader.join()
        self._readers.append(reader)
        return reader

    def _victims(self) -> list[Reader]:
        return [reader for reader in self._readers if reader.role in {BY_ITSELF, WITH_CURSORS}]

    async def _leave(self) -> None:
        self._readers.clear()
        await self._clients.aclose()

    # Events.

    async def _cause(self, count: int, *, patiently: bool = False, waits: bool = True) -> None:
        """Cause events of every operation, and wait until those who listen have them."""
        self._turn += 1
        for operation in self._operations:
            for _ in range(count):
                self._caused += 1
                await self._make_event(operation)
        if waits:
            await self._arrival(count, patiently=patiently)
            self._find_silent()

    async def _warm_up(self) -> None:
        """Make events until each new reader gets them."""
        for _ in range(_ATTEMPTS):
            new = [reader for reader in self._readers if reader.joined is None]
            if not new:
                return
            await self._cause(max(ceil(1 / reader.truth.rate) for reader in new))

    async def _make_event(self, operation: Operation) -> None:
        """Make one event.

        Raises:
            _Stuck: the application could do so before, and can't any more.
        """
        try:
            async with asyncio.timeout(_SECONDS_TO_CAUSE):
                await operation.cause(self._caused)
        except Exception as error:
            if self._step == _ALONE:
                raise
            raise _Stuck(no_event(operation, error, len(self._readers), self._step)) from error

    async def _arrival(self, count: int, *, patiently: bool) -> None:
        patience = _Patience()
        quiet = 0
        while not patience.is_over and quiet < _QUIET:
            await settle()
            news = self._collect()
            if news:
                patience = _Patience()
            patiently = patiently and not self._has_come(count)
            quiet = 0 if news or patiently or self._is_awaited(count) else quiet + 1
            patience.rounds += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    def _collect(self) -> int:
        news = 0
        for reader in self._readers:
            for result in reader.collect(self._turn):
                news += 1
                self._leaks.look(reader, result, self._step, is_alone=self._step == _ALONE)
        return news

    def _has_come(self, count: int) -> bool:
        return all(len(r.truth.since(self._turn)) >= count for r in self._readers)

    def _is_awaited(self, count: int) -> bool:
        """Whether an attached reader still has to get something."""
        attached = [reader for reader in self._readers if reader.is_attached]
        return any(
            reader.joined is None
            or reader.missing()
            or len(reader.truth.since(self._turn)) < int(reader.truth.rate * count)
            for reader in attached
        )

    # What is wrong.

    async def _audit(self) -> None:
        for reader in list(self._readers):
            problem = audit(reader, self._step)
            if problem is not None:
                self.report.add(problem)
                await self._replace(reader)

    def _find_silent(self) -> None:
        """Report what had results until now, and has none for the last event."""
        for (operation, viewer), truth in self._truths.items():
            if truth.rate >= 1 and not truth.since(self._turn) and self._is_read(truth):
                self.report.add(nobody_got(operation, viewer, self._step))
                # Nothing more can be learned from it.
                truth.rate = 0
                self._readers = [reader for reader in self._readers if reader.truth is not truth]

    def _is_read(self, truth: Truth) -> bool:
        return any(reader.truth is truth and reader.is_attached for reader in self._readers)

    async def _replace(self, reader: Reader) -> None:
        """Go on with a new reader: what one has missed must not be told again."""
        self._readers.remove(reader)
        with suppress(*_BREAKS):
            client = await self._open(reader.viewer)
            await self._reader(reader.operation, reader.viewer, client, reader.role)
            await self._warm_up()

    async def _look_for_leftovers(self) -> None:
        self._begin(_EVERYBODY_LEFT)
        for what, look_at in await self._leftovers.find():
            self.report.add(Problem(Kind.LEFT_OVER, "", "", what, self._step, look_at))
