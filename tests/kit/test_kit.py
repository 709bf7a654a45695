"""The application leaves nothing, neither in its own tests nor in a server."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.raw import Socket, open_socket
from tests.servers import PATIENCE, ROOT, Server, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

OPTIONS = [
    *("-W", "error", "-p", "no:cacheprovider", "--noconftest"),
    # Starlette's test client warns about the version of httpx here.
    *("-W", "ignore:Using `httpx` with"),
    # The editable install is imported before pytest looks for plugins.
    *("-W", "ignore:Module already imported so cannot be rewritten"),
]
LEAKS = ["was destroyed", "never awaited", "never retrieved", "unclosed", "Traceback"]


@pytest.mark.parametrize(
    "secret", ["", "a secret of 32 bytes for the chat"], ids=["open", "tokens"]
)
def test_its_suite_passes_and_leaves_nothing(secret: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *OPTIONS, "tests/kit/suite.py"],
        cwd=ROOT,
        env={**os.environ, "CHAT_SECRET": secret},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert not [sign for sign in LEAKS if sign in output], output


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("tests.kit.chat:app", tmp_path_factory.mktemp("chat")) as server:
        yield server
        assert server.trouble == [], server.log


@pytest.mark.parametrize("field", ["shared", "perViewer", "generated"])
async def test_subscribers_that_leave_remain_in_no_list(chat: Server, field: str) -> None:
    async with open_socket(chat.ws) as watcher:
        await watcher.init()
        for _ in range(5):
            async with open_socket(chat.ws) as socket:
                await socket.init()
                for name in ("left open", "completed"):
                    await socket.subscribe(name, f"subscription {{ {field} }}")
                await wait_until(lambda: _readers(watcher))
                await socket.complete("completed")
                await watcher.query('mutation { say(text: "hello") }')
            await wait_until(lambda: _has_none(watcher))


async def _readers(watcher: Socket) -> int:
    data = await watcher.query("{ readers }")
    return int(data["readers"])


async def _has_none(watcher: Socket) -> bool:
    return await _readers(watcher) == 0
