"""The settings of the chat, for its tokens."""

import pytest

from gqlnotify import Settings
from gqlnotify.testing import Tokens
from tests.testing.app import SETTINGS


@pytest.fixture
def gqlnotify_settings() -> Settings:
    return SETTINGS


@pytest.fixture
def ann(tokens: Tokens) -> str:
    return tokens("ann", subscribe="*", publish="*")


@pytest.fixture
def bob(tokens: Tokens) -> str:
    return tokens("bob", subscribe="messages")
