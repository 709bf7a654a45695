"""Tests of applications that use gqlnotify: a client, tokens, time and faults, in one process."""

from gqlnotify.testing.broker import ControlledBroker, Published
from gqlnotify.testing.client import Client, Result, Stream, connect
from gqlnotify.testing.clock import Clock
from gqlnotify.testing.errors import Disconnected, LeftOver, NothingArrived, OperationFailed
from gqlnotify.testing.tokens import Tokens

__all__ = [
    "Client",
    "Clock",
    "ControlledBroker",
    "Disconnected",
    "LeftOver",
    "NothingArrived",
    "OperationFailed",
    "Published",
    "Result",
    "Stream",
    "Tokens",
    "connect",
]
