"""What one test has: a clock, brokers under its control, and the applications that run in it."""

import asyncio
import sys
from itertools import count
from typing import ClassVar

from starlette.types import ASGIApp

from gqlnotify.brokers import Broker
from gqlnotify.testing.application import Application
from gqlnotify.testing.broker import ControlledBroker
from gqlnotify.testing.clock import Clock, Timers
from gqlnotify.topics.manager import TopicManager

# If pytest has loaded it, it ends the bench with the test.
PLUGIN = "gqlnotify.pytest_plugin"


class Bench:
    """Gives the topic managers of this process fresh histories, for one test.

    The plugin begins one with the first fixture or client that needs it, and ends it with the
    test. Without the plugin, it begins with the first client and ends with the last.
    """

    current: "ClassVar[Bench | None]" = None
    _numbers: "ClassVar[count[int]]" = count(1)

    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = ControlledBroker()
        self._applications: dict[ASGIApp, Application] = {}
        self._replaced: list[tuple[TopicManager, Broker]] = []
        self._entering = asyncio.Lock()
        self._ports = count(50_000)
        number = next(self._numbers)
        # An address of its own: bad tokens of one test must not count in the next.
        self._host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    @classmethod
    def of_this_test(cls) -> "Bench":
        """Return the bench of the running test, and begin it if it is new."""
        if cls.current is None:
            cls.current = cls()
            cls.current.clock.start()
        cls.current.take_managers()
        return cls.current

    @property
    def is_used(self) -> bool:
        """Whether a client is connected."""
        return bool(self._applications)

    @property
    def managers(self) -> list[TopicManager]:
        """The topic managers whose broker is under control."""
        return [manager for manager, _ in self._replaced]

    def take_managers(self) -> None:
        """Give every topic manager that does not run yet a broker of this test."""
        taken = set(self.managers)
        for manager in set(TopicManager.known) - taken:
            if not manager.is_running:
                broker = self.broker.make(manager.settings)
                self._replaced.append((manager, manager.exchange_broker(broker)))

    def enter_loop(self) -> None:
        """Make the time of the running event loop movable.

        Raises:
            RuntimeError: no asyncio loop runs.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "gqlnotify needs asyncio. With anyio's plugin, define a fixture anyio_backend that "
                'returns "asyncio"'
            ) from None
        Timers.of(loop).follow(loop)

    def end(self) -> None:
        """Give the topic managers their own brokers again."""
        self.clock.stop()
        type(self).current = None
        for manager, former in self._replaced:
            if not manager.is_running:
                manager.exchange_broker(former)

    def address(self) -> tuple[str, int]:
        """Return a host and a port for a client."""
        return self._host, next(self._ports)

    async def enter(self, app: ASGIApp) -> Application:
        """Return the running `app`, and start it for its first user."""
        async with self._entering:
            application = self._applications.get(app)
            if application is None:
                application = Application(app)
                await application.start()
                self._applications[app] = application
        application.users += 1
        return application

    async def leave(self, app: ASGIApp) -> list[str]:
        """Stop the application after its last user, and return what is left over then."""
        application = self._applications[app]
        application.users -= 1
        if application.users:
            return []
        del self._applications[app]
        await application.stop()
        left = await application.left_over()
        if PLUGIN not in sys.modules and not self.is_used:
            for manager in self.managers:
                if manager.is_running:
                    await manager.close()
            self.end()
        return left
