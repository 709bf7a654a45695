"""Fixtures for the tests of execution."""

import pytest

from gqlnotify import Settings
from gqlnotify.testing import Tokens
from tests.execution import Stage
from tests.live_lists import House, settings


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def gqlnotify_settings() -> Settings:
    return settings()


@pytest.fixture
def house() -> House:
    return House(settings())


@pytest.fixture
def ann(tokens: Tokens) -> str:
    return tokens("ann", subscribe="*", publish="*")
