"""Fixtures for the tests of the commands."""

from uuid import uuid4

import pytest


@pytest.fixture
def topic() -> str:
    return f"prices.{uuid4().hex}"
