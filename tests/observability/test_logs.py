"""What the log says about a connection, and what it never contains."""

import json
import logging
import logging.config
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from gqlnotify.observability import logs
from gqlnotify.settings import LogLevel
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.servers import Program, Server, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

APP = "tests.e2e.app:app"
SERVE = Program("gqlnotify serve {application} --port {port}", r"Uvicorn running on \S+:(\d+)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("logs")
    with serving(APP, directory, program=SERVE, jwt_secret=SECRET, log_format="json") as server:
        yield server


def records(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines()]


def of_logger(server: Server, name: str) -> list[dict[str, Any]]:
    return [record for record in records(server) if record["logger"] == name]


async def ended_with(server: Server, code: int) -> dict[str, Any]:
    """Return the line about a connection that ended with `code`, once it is there."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [
            each
            for each in of_logger(server, "gqlnotify.connections")
            if each["close_code"] == code
        ]
        return bool(found)

    await wait_until(is_there)
    return found[-1]


async def test_every_line_is_one_json_object_with_its_time_level_and_logger(
    server: Server,
) -> None:
    async with httpx.AsyncClient(base_url=server.http) as client:
        await client.get("/tasks")
    lines = records(server)

    assert {"uvicorn.error", "uvicorn.access"} <= {line["logger"] for line in lines}
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert not {"color_message", "origin"} & set(line)


async def test_log_records_of_a_connection_have_its_id(server: Server) -> None:
    async with open_socket(server.ws) as socket:
        await socket.init({"authorization": f"Bearer {token()}"})
        await socket.subscribe("1", "{ fails }")
        assert (await socket.next("1"))["errors"]
        await socket.connection.close(4321, "a secret of mine")
        end = await ended_with(server, 4321)
        client = "{}:{}".format(*socket.connection.local_address[:2])

    failures = [line for line in records(server) if "on purpose" in json.dumps(line)]
    assert failures
    assert {line["connection_id"] for line in failures} == {end["connection_id"]}
    assert "Traceback" in failures[0]["exc_info"]
    assert end["client"] == client
    assert end["duration"] >= 0
    # The peer chose the reason.
    assert "a secret of mine" not in server.log


async def test_a_connection_that_the_server_ends_is_logged_with_the_reason(server: Server) -> None:
    async with open_socket(server.ws) as socket:
        await socket.raw("nonsense")
        assert (await socket.closed()).code == 4400

    end = await ended_with(server, 4400)
    assert end["close_reason"] == "Message is not valid JSON"


async def test_two_connections_have_two_ids_and_each_is_logged_once(server: Server) -> None:
    for _ in range(2):
        async with open_socket(server.ws) as socket:
            await socket.connection.close(4999)

    def both() -> list[str]:
        lines = of_logger(server, "gqlnotify.connections")
        return [line["connection_id"] for line in lines if line["close_code"] == 4999]

    await wait_until(lambda: len(both()) >= 2)
    assert len(set(both())) == len(both()) == 2


async def test_no_token_and_no_query_string_is_logged(server: Server) -> None:
    secret = token("mallory")
    async with httpx.AsyncClient(base_url=server.http) as client:
        await client.get("/tasks", params={"token": secret})
    for payload in ({"authorization": f"Bearer {secret}"}, {"authorization": f"Bearer {secret}x"}):
        async with open_socket(server.ws, path=f"/graphql?token={secret}") as socket:
            await socket.send({"type": "connection_init", "payload": payload})
            if payload["authorization"].endswith("x"):
                assert (await socket.closed()).code in {4401, 4403}
            else:
                await socket.receive()
                await socket.connection.close(4777)
                await ended_with(server, 4777)

    messages = " ".join(line["message"] for line in records(server))
    assert "/tasks" in messages
    assert "WebSocket /graphql" in messages
    assert secret not in server.log
    assert SECRET not in server.log
    assert "token=" not in server.log


async def test_a_text_log_line_starts_with_its_connection(tmp_path: Path) -> None:
    secret = token("mallory")
    with serving(APP, tmp_path, program=SERVE, jwt_secret=SECRET, log_level="debug") as server:
        async with open_socket(server.ws) as socket:
            payload = {"authorization": f"Bearer {secret}"}
            await socket.send({"type": "connection_init", "payload": payload})
            await socket.receive()
            await socket.raw("nonsense")
            await socket.closed()
        await wait_until(lambda: "ended after" in server.log)
        log = server.log

    began, line = (line for line in log.splitlines() if "Connection from" in line)
    assert began.startswith("DEBUG:")
    assert secret not in log
    assert line.startswith("INFO:")
    assert "] Connection from 127.0.0.1:" in line
    assert line.endswith("'4400 Message is not valid JSON'")


@pytest.mark.parametrize("level", get_args(LogLevel))
def test_the_log_begins_at_the_level_that_is_set(level: LogLevel) -> None:
    config = logs.log_config("text", level)
    assert {each["level"] for each in config["loggers"].values()} == {level.upper()}
    assert config["root"]["level"] == ("ERROR" if level == "error" else "WARNING")


def test_the_library_does_not_configure_logging() -> None:
    names = [name for name in logging.root.manager.loggerDict if name.startswith("gqlnotify")]

    assert names
    for name in names:
        logger = logging.getLogger(name)
        assert logger.level == logging.NOTSET
        assert not logger.handlers
        assert logger.propagate


def test_a_line_break_in_input_makes_no_second_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.makeLogRecord({"name": "x", "msg": "%s", "args": ("one\ntwo",)})
    formatter = logs.log_config("json", "info")["formatters"]["default"]
    logging.config.dictConfig(
        {"version": 1, "incremental": False, "disable_existing_loggers": False}
    )
    made = logging.config.DictConfigurator({"version": 1}).configure_formatter(dict(formatter))

    assert isinstance(made, logging.Formatter)
    assert len(made.format(record).splitlines()) == 1
