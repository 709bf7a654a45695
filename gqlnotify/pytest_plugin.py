"""The pytest plugin: fixtures, and an end to everything that a test has changed.

pytest imports this file in every project that has gqlnotify installed, so it imports nothing of
gqlnotify before a test needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gqlnotify.settings import Settings
    from gqlnotify.testing.bench import Bench
    from gqlnotify.testing.broker import ControlledBroker, Published
    from gqlnotify.testing.clock import Clock
    from gqlnotify.testing.tokens import Tokens


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """Give the application its own brokers and the real clock again."""
    try:
        yield
    finally:
        bench = sys.modules.get("gqlnotify.testing.bench")
        current = None if bench is None else bench.Bench.current
        if current is not None and not current.is_used:
            current.end()


def _bench() -> Bench:
    from gqlnotify.testing.bench import Bench  # noqa: PLC0415

    return Bench.of_this_test()


@pytest.fixture
def broker() -> ControlledBroker:
    """The broker of this test, which can go away, restart and forget."""
    return _bench().broker


@pytest.fixture
def clock() -> Clock:
    """The clock of this test: `await clock.advance(60)`."""
    return _bench().clock


@pytest.fixture
def published() -> Published:
    """What was published in this test: `published(TOPIC)`."""
    from gqlnotify.testing.broker import Published  # noqa: PLC0415

    return Published(_bench().broker)


@pytest.fixture
def gqlnotify_settings() -> Settings:
    """The settings that tokens are signed with. Define it again if yours are not from variables."""
    from gqlnotify.settings import Settings  # noqa: PLC0415

    return Settings()


@pytest.fixture
def tokens(gqlnotify_settings: Settings) -> Tokens:
    """Signs tokens: `tokens("ann", subscribe="orders")`."""
    from gqlnotify.testing.tokens import Tokens  # noqa: PLC0415

    return Tokens(gqlnotify_settings)
