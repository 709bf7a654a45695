"""What must hold for the protocol core, whatever it receives."""

import json
from collections.abc import Iterable

from gqlnotify.protocol.connection import Authenticate, Close, Send, ServerConnection, State

CAUSED_BY_CLIENTS = {1009, 4400, 4401, 4409, 4429, 1013, 1008}
SEEDS = (
    '{"type":"connection_init","payload":{}}',
    '{"type":"subscribe","id":"1","payload":{"query":"{ a }","variables":{},"extensions":{}}}',
    '{"type":"subscribe","id":"1","payload":{"query":"{ a }","operationName":null}}',
    '{"type":"complete","id":"1"}',
    '{"type":"ping","payload":{"a":[1,2.5,null,true,"\\ud800"]}}',
    '{"type":"pong"}',
)


def converse(texts: Iterable[str]) -> ServerConnection:
    """Send all `texts` to a connection that accepts every client.

    Raises:
        AssertionError: an answer breaks the protocol.
    """
    connection = ServerConnection(max_operations=3, message_max_bytes=4096)
    for text in texts:
        was_closed = connection.state is State.CLOSED
        commands = connection.receive_text(text)
        assert len(commands) <= 1
        assert not (was_closed and commands)
        for command in commands:
            _check(connection, command)
    assert len(connection.active) <= 3
    return connection


def _check(connection: ServerConnection, command: object) -> None:
    match command:
        case Close(code, reason):
            assert code in CAUSED_BY_CLIENTS, code
            assert len(reason.encode()) <= 123
            assert connection.state is State.CLOSED
        case Send(message):
            assert json.loads(json.dumps(message)) is not None
        case Authenticate(payload):
            assert isinstance(payload, dict)
            connection.acknowledge()
