"""Each connection and operation has these objects, so a `__dict__` of theirs costs memory."""

from typing import Any

import pytest

from gqlnotify.auth import Viewer
from gqlnotify.deadline import Deadline
from gqlnotify.observability.connection_log import ConnectionLog
from gqlnotify.protocol.connection import ServerConnection
from gqlnotify.timers import Timer
from gqlnotify.websocket.acknowledgements import Acknowledgements
from gqlnotify.websocket.connection import Connection
from gqlnotify.websocket.heartbeat import Heartbeat
from gqlnotify.websocket.operations import Operations
from gqlnotify.websocket.primitives import LightEvent, LightQueue
from gqlnotify.websocket.session import Session
from gqlnotify.websocket.shared_operation import SharedOperation
from gqlnotify.websocket.writer import DirectWriter


@pytest.mark.parametrize(
    "slotted",
    [
        *(Acknowledgements, Connection, ConnectionLog, Deadline, DirectWriter, Heartbeat),
        *(LightEvent, LightQueue, Operations, ServerConnection, Session, SharedOperation, Timer),
        Viewer,
    ],
)
def test_no_base_class_brings_a_dict_along(slotted: Any) -> None:
    assert not hasattr(slotted.__new__(slotted), "__dict__")
