"""Fixtures for the tests of execution."""

import pytest

from tests.execution import Stage


@pytest.fixture
def stage() -> Stage:
    return Stage()
