"""The npm client graphql-ws against a real server: it reconnects, and misses nothing."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import APP, SECRET
from tests.e2e.tokens import token
from tests.servers import NO_TLS, Server, node, run_node, serving

pytestmark = pytest.mark.processes

NUMBERS = "subscription ($name: String!) { numbers(name: $name) { value } }"
NUMBERS_AFTER = """
    subscription ($name: String!, $after: String) { numbers(name: $name, after: $after) { value } }
"""
NOTHING_AMISS = {"lost": 0, "repeated": 0, "reordered": 0}


class Lines:
    """The output of a script, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self._stdout = process.stdout

    def read(self) -> Any:
        line = self._stdout.readline()
        assert line, "the script ended without another line"
        return json.loads(line)


@contextmanager
def following(server: Server, query: str = NUMBERS, **options: Any) -> Iterator[Lines]:
    with node("follow.mjs", ws=f"{server.ws}/graphql", query=query, **options) as process:
        yield Lines(process)


def resume(server: Server, **options: Any) -> Any:
    return run_node(
        "resume.mjs", ws=f"{server.ws}/graphql", http=f"{server.http}/graphql", **options
    )


def ask(server: Server, document: str, *, bearer: str | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    url = f"{server.http}/graphql"
    answer = httpx.post(url, json={"query": document}, headers=headers, verify=NO_TLS)
    result = answer.json()
    assert "errors" not in result, result
    data: dict[str, Any] = result["data"]
    return data


def cursor(server: Server, name: str, *, bearer: str | None = None) -> str:
    return str(ask(server, f'{{ cursor(name: "{name}") }}', bearer=bearer)["cursor"])


def publish(server: Server, name: str, *values: int, bearer: str | None = None) -> list[str]:
    fields = (f'_{value}: publish(name: "{name}", value: {value})' for value in values)
    return list(ask(server, f"mutation {{ {' '.join(fields)} }}", bearer=bearer).values())


def test_a_client_whose_socket_is_cut_at_random_misses_nothing(server: Server) -> None:
    result = resume(server, topics=["cut"], events=200, cuts=25)
    assert result["counts"] == [{"received": 200, **NOTHING_AMISS}]
    assert result["cut"] == 25
    assert result["connections"] > result["cut"] / 2


def test_several_topics_on_one_cut_socket_miss_nothing(server: Server) -> None:
    topics = ["cut-a", "cut-b", "cut-c", "cut-d"]
    result = resume(server, topics=topics, events=50, cuts=20)
    assert result["counts"] == [{"received": 50, **NOTHING_AMISS}] * 4
    assert result["cut"] == 20


def test_several_subscriptions_of_one_topic_on_one_cut_socket_miss_nothing(server: Server) -> None:
    result = resume(server, topics=["cut-same"], followers=5, events=100, cuts=20)
    assert result["counts"] == [{"received": 100, **NOTHING_AMISS}] * 5
    assert result["cut"] == 20


def test_a_long_history_is_replayed_whole(server: Server) -> None:
    publish(server, "history", *range(1, 801))
    beginning = cursor(server, "history").split("-")[0] + "-0"
    options: dict[str, Any] = {"variables": {"name": "history"}, "extensions": {"after": beginning}}
    with following(server, **options) as lines:
        values = [lines.read()["next"]["data"]["numbers"]["value"] for _ in range(800)]
    assert values == list(range(1, 801))


def test_every_result_carries_the_cursor_of_its_event(server: Server) -> None:
    after = cursor(server, "cursors")
    cursors = publish(server, "cursors", 1, 2, 3)
    with following(server, variables={"name": "cursors"}, extensions={"after": after}) as lines:
        results = [lines.read()["next"] for _ in cursors]
    assert [result["extensions"]["cursor"] for result in results] == cursors


def test_the_after_argument_resumes(server: Server) -> None:
    first, *_ = publish(server, "argument", 1, 2, 3)
    variables = {"name": "argument", "after": first}
    with following(server, NUMBERS_AFTER, variables=variables) as lines:
        assert lines.read()["next"]["data"] == {"numbers": {"value": 2}}
        assert lines.read()["next"]["data"] == {"numbers": {"value": 3}}
        publish(server, "argument", 4)
        assert lines.read()["next"]["data"] == {"numbers": {"value": 4}}


def test_the_cursor_in_the_extensions_overrides_the_argument(server: Server) -> None:
    # The argument was set when the document was written; the extension is the client's position.
    first, second, _ = publish(server, "both", 1, 2, 3)
    variables = {"name": "both", "after": first}
    extensions = {"after": second}
    with following(server, NUMBERS_AFTER, variables=variables, extensions=extensions) as lines:
        assert lines.read()["next"]["data"] == {"numbers": {"value": 3}}


@pytest.mark.parametrize("after", ["1-0", "9999999999999-0"])
def test_a_cursor_of_another_history_is_an_error_that_says_so(server: Server, after: str) -> None:
    publish(server, "expired", 1)
    with following(server, variables={"name": "expired"}, extensions={"after": after}) as lines:
        [error] = lines.read()["error"]
    assert error["extensions"]["code"] == "CURSOR_EXPIRED"


def test_a_history_that_no_longer_reaches_back_is_an_error(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(APP, tmp_path, *path, history_length=5) as server:
        first, *_ = publish(server, "short", *range(1, 11))
        with following(server, variables={"name": "short"}, extensions={"after": first}) as lines:
            [error] = lines.read()["error"]
    assert error["extensions"]["code"] == "CURSOR_EXPIRED"


def test_after_a_restart_the_client_gets_cursor_expired(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(APP, tmp_path, *path) as server:
        after = cursor(server, "restart")
        options = {"ws": f"{server.ws}/graphql", "http": f"{server.http}/graphql"}
        with node("restart.mjs", **options, topic="restart", after=after) as process:
            lines = Lines(process)
            publish(server, "restart", 1)
            assert lines.read() == {"value": 1}
            server.stop()
            server.start()
            [error] = lines.read()["error"]
            assert error["extensions"]["code"] == "CURSOR_EXPIRED"


# Tokens


@pytest.mark.parametrize(
    "spelling",
    ["authorization", "Token", "authToken"],
)
def test_a_token_is_found_under_each_of_its_names(locked: Server, spelling: str) -> None:
    params = {spelling: token("alice")}
    with following(locked, "{ subject }", connectionParams=params) as lines:
        assert lines.read() == {"next": {"data": {"subject": "alice"}}}
        assert lines.read() == {"complete": True}


@pytest.mark.parametrize("scheme", ["Bearer ", "BEARER  "])
def test_the_scheme_is_taken_off_in_any_case(locked: Server, scheme: str) -> None:
    params = {"Authorization": scheme + token("alice")}
    with following(locked, "{ subject }", connectionParams=params) as lines:
        assert lines.read() == {"next": {"data": {"subject": "alice"}}}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": ["a", "list"]},
        {"token": "x" * 60_000},
    ],
    ids=lambda params: str(params)[:30],
)
def test_an_invalid_token_is_fatal(locked: Server, params: Any) -> None:
    with following(locked, "{ subject }", connectionParams=params, retries=5) as lines:
        assert lines.read() == {"closed": 4401, "connections": 1}


@pytest.mark.parametrize("claims", [{"secret": "another secret, and long enough"}, {"sub": None}])
def test_a_token_that_is_signed_or_spelled_wrongly_is_fatal(locked: Server, claims: Any) -> None:
    params = {"token": token(**claims)}
    with following(locked, "{ subject }", connectionParams=params, retries=5) as lines:
        assert lines.read() == {"closed": 4401, "connections": 1}


def test_an_expired_token_is_retried(locked: Server) -> None:
    params = {"token": token(expires_in=-60)}
    with following(locked, "{ subject }", connectionParams=params, retries=2) as lines:
        assert lines.read() == {"closed": 4403, "connections": 3}


def test_a_client_reconnects_with_a_fresh_token_and_misses_nothing(locked: Server) -> None:
    result = resume(
        locked, topics=["fresh-a", "fresh-b"], events=150, pace=30, secret=SECRET, lifetime=2
    )
    assert result["counts"] == [{"received": 150, **NOTHING_AMISS}] * 2
    assert 4403 in result["closes"]
    assert set(result["closes"]) <= {4403, 1000}


def test_a_topic_without_the_right_is_an_error_and_not_the_end(locked: Server) -> None:
    params = {"token": token(subscribe=["other.*"])}
    options: dict[str, Any] = {"variables": {"name": "a"}, "connectionParams": params}
    with following(locked, **options) as lines:
        [error] = lines.read()["error"]
    assert error["extensions"]["code"] == "FORBIDDEN"


def test_the_right_to_a_topic_opens_it(locked: Server) -> None:
    params = {"token": token(subscribe=["numbers.mine"])}
    options: dict[str, Any] = {"variables": {"name": "mine"}, "connectionParams": params}
    after = cursor(locked, "mine", bearer=token())
    publish(locked, "mine", 7, bearer=token())
    with following(locked, **options, extensions={"after": after}) as lines:
        assert lines.read()["next"]["data"] == {"numbers": {"value": 7}}
