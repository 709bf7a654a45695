"""Which pages may open a socket."""

from typing import Any

import pytest
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.connections.origin import Origin, foreign_origin
from tests.applications import application, schema_of
from tests.e2e.raw import open_socket
from tests.servers import running


@pytest.mark.parametrize(
    ("origins", "host", "own"),
    [
        ([], "here.example", True),
        (["https://here.example"], "here.example", True),
        (["http://HERE.example:8000"], "here.example:8000", True),
        (["https://here.example"], "here.example:443", True),
        (["http://[::1]:8000"], "[::1]:8000", True),
        (["https://here.example:444"], "here.example", False),
        (["https://there.example"], "here.example", False),
        (["https://here.example.evil.example"], "here.example", False),
        (["null"], "here.example", False),
        ([""], "here.example", False),
        (["https://["], "here.example", False),
        (["here.example"], "here.example", False),
        (["https://here.example", "https://here.example"], "here.example", False),
        (["https://here.example"], "", False),
    ],
)
def test_a_page_is_foreign_unless_it_came_from_this_host(
    origins: list[str], host: str, own: bool
) -> None:
    raw = [(b"host", host.encode()), *((b"origin", o.encode()) for o in origins)]

    assert (foreign_origin(Headers(raw=raw)) is None) == own


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://Here.example:443/", "https://here.example"),
        ("http://here.example:8000", "http://here.example:8000"),
        ("https://here.example:80", "https://here.example:80"),
        ("http://[::1]:80", "http://[::1]"),
        ("chrome-extension://abc", "chrome-extension://abc"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(written: str, sent: str) -> None:
    assert Origin.parse(written).as_header == sent


@pytest.mark.processes
@pytest.mark.parametrize(
    ("allowed", "origin", "enters"),
    [
        ((), None, True),
        ((), "http://{host}", True),
        ((), "https://there.example", False),
        ((), "null", False),
        (("https://There.example:443/",), "https://there.example", True),
        (("https://there.example",), "http://there.example", False),
        (("https://there.example",), "https://sub.there.example", False),
        (("https://there.example",), "null", False),
        (("*",), "https://there.example", True),
        (("*",), "null", True),
    ],
)
async def test_a_socket_is_opened_only_for_pages_that_may(
    allowed: tuple[str, ...], origin: str | None, enters: bool
) -> None:
    router: Any = GraphQLRouter(schema_of(), settings=Settings(allowed_origins=allowed))
    async with running(application(router)) as host:
        headers = {} if origin is None else {"origin": origin.format(host=host)}
        if enters:
            async with open_socket(f"ws://{host}", additional_headers=headers) as socket:
                await socket.init()
            return
        with pytest.raises(InvalidStatus) as refusal:
            async with open_socket(f"ws://{host}", additional_headers=headers):
                pass
        assert refusal.value.response.status_code == 403


@pytest.mark.processes
async def test_the_operator_gets_one_warning_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    router: Any = GraphQLRouter(schema_of(), settings=Settings())
    async with running(application(router)) as host:
        for _ in range(2):
            with pytest.raises(InvalidStatus):
                async with open_socket(
                    f"ws://{host}", additional_headers={"origin": "https://there.example"}
                ):
                    pass
    warnings = [r.message for r in caplog.records if "GQLNOTIFY_ALLOWED_ORIGINS" in r.message]
    assert len(warnings) == 1
    assert "https://there.example" in warnings[0]


@pytest.mark.parametrize("origin", ["there.example", "https://there.example/path", "null"])
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        GraphQLRouter(schema_of(), settings=Settings(allowed_origins=(origin,)))
