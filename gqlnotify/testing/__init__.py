"""Tests of applications that use gqlnotify: a client, tokens, time and faults, in one process."""

from gqlnotify.testing.broker import ControlledBroker, Published
from gqlnotify.testing.chaos import chaos
from gqlnotify.testing.client import Client, connect
from gqlnotify.testing.clock import Clock
from gqlnotify.testing.errors import Disconnected, LeftOver, NothingArrived, OperationFailed
from gqlnotify.testing.reader import Operation
from gqlnotify.testing.report import Kind, Problem, Report
from gqlnotify.testing.stream import Result, Stream
from gqlnotify.testing.tokens import Tokens

__all__ = [
    "Client",
    "Clock",
    "ControlledBroker",
    "Disconnected",
    "Kind",
    "LeftOver",
    "NothingArrived",
    "Operation",
    "OperationFailed",
    "Problem",
    "Published",
    "Report",
    "Result",
    "Stream",
    "Tokens",
    "chaos",
    "connect",
]
