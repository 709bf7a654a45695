"""The npm package of clients/js, packed and installed, with stock clients and a real server."""

import asyncio
import gzip
import json
import random
import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SECRET
from tests.e2e.proxy import Proxy, port_of
from tests.numbers_app import NumbersApp
from tests.servers import CLIENTS, ROOT, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

STOCK = [
    "graphql-ws",
    "iterate",
    "Apollo, WebSocket",
    "Apollo, multipart",
    "urql, WebSocket",
    "urql, SSE",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the packed package, the stock clients and the script."""
    source, project = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "clients" / "js", source, dirs_exist_ok=True)
    npm(source, "pack", "--pack-destination", str(project))
    [tarball] = project.glob("*.tgz")
    (project / "package.json").write_text("{}")
    npm(project, "install", "--offline", "--no-package-lock", tarball.name)
    for module in (CLIENTS / "node_modules").iterdir():
        if not module.name.startswith("."):
            (project / "node_modules" / module.name).symlink_to(module)
    for script in ("client.mjs", "ends.mjs", "helper.mjs"):
        shutil.copy(CLIENTS / script, project)
    return project


def npm(directory: Path, *arguments: str) -> None:
    subprocess.run(["npm", "--loglevel=error", *arguments], cwd=directory, check=True)


class Followers:
    """What the clients of one process print."""

    def __init__(self) -> None:
        self.values: defaultdict[str, list[int]] = defaultdict(list)
        self.refetched: list[str] = []
        self.others: list[Any] = []
        self.ended = False

    async def read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            match json.loads(line):
                case {"client": client, "value": value}:
                    self.values[client].append(value)
                case {"client": client, "refetched": True}:
                    self.refetched.append(client)
                case other:
                    self.others.append(other)
        self.ended = True

    def have(self, value: int) -> bool:
        assert not self.others
        assert not self.ended
        return all(self.values[client][-1:] == [value] for client in STOCK)


@asynccontextmanager
async def following(
    project: Path, port: int, after: str, **others: Any
) -> AsyncIterator[Followers]:
    address = f"127.0.0.1:{port}/graphql"
    options = {
        "clients": STOCK,
        "http": f"http://{address}",
        "ws": f"ws://{address}",
        "after": after,
        **others,
    }
    process = await asyncio.create_subprocess_exec(
        *("node", "helper.mjs", json.dumps(options)), cwd=project, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    followers = Followers()
    reading = asyncio.create_task(followers.read(process.stdout))
    try:
        yield followers
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def test_each_client_gets_each_event_once_over_cuts_a_restart_and_expired_tokens(
    project: Path, redis_url: str
) -> None:
    old, new = (NumbersApp(redis_url, jwt_secret=SECRET) for _ in range(2))
    tokens = {"secret": SECRET, "lifetime": 2}
    async with AsyncExitStack() as stack:
        async with running(old.asgi) as origin:
            proxy = Proxy(port_of(origin))
            port = await stack.enter_async_context(proxy.listening())
            [after] = await old.publish(0)
            followers = await stack.enter_async_context(following(project, port, after, **tokens))
            await publish_and_cut(old, proxy, range(1, 30))
            await wait_until(lambda: followers.have(29))
        async with running(new.asgi) as origin:
            await new.publish(30)
            proxy.port = port_of(origin)
            await publish_and_cut(new, proxy, range(31, 60))
            await wait_until(lambda: followers.have(59))
            # Until each token has expired.
            for value in range(60, 71):
                await asyncio.sleep(0.2)
                await new.publish(value)
            await wait_until(lambda: followers.have(70))

    assert followers.values == {client: list(range(1, 71)) for client in STOCK}


async def publish_and_cut(app: NumbersApp, proxy: Proxy, values: range) -> None:
    for value in values:
        await app.publish(value)
        await asyncio.sleep(random.random() * 0.02)
        if random.random() < 0.2:
            proxy.cut()


async def test_a_client_whose_cursor_expired_fetches_the_list_and_continues_after_it(
    project: Path,
) -> None:
    old, new = NumbersApp(), NumbersApp()
    async with AsyncExitStack() as stack:
        async with running(old.asgi) as origin:
            proxy = Proxy(port_of(origin))
            port = await stack.enter_async_context(proxy.listening())
            [after] = await old.publish(0)
            followers = await stack.enter_async_context(following(project, port, after))
            await old.publish(1)
            await wait_until(lambda: followers.have(1))
        async with running(new.asgi) as origin:
            await new.publish(2)
            proxy.port = port_of(origin)
            await wait_until(lambda: set(followers.refetched) == set(STOCK))
            await new.publish(3, 4)
            await wait_until(lambda: followers.have(4))

    # 2 is in the list that was fetched.
    assert followers.values == {client: [1, 3, 4] for client in STOCK}
    assert sorted(followers.refetched) == sorted(STOCK)


async def test_a_subscription_ends_as_it_does_without_the_package(project: Path) -> None:
    app = NumbersApp()
    async with running(app.asgi) as origin:
        after, _ = await app.publish(0, 1)
        options = json.dumps({"ws": f"ws://{origin}/graphql", "after": after})
        process = await asyncio.create_subprocess_exec(
            *("node", "ends.mjs", options), cwd=project, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()

    assert json.loads(output) == {
        "query": [["next", {"__typename": "Query"}], ["complete", None]],
        "stopped": [["next", {"numbers": {"value": 1}}], ["complete", None]],
        "stoppedWhileWaiting": True,
        "expired": "CURSOR_EXPIRED",
        "failedToFetch": "Error: offline",
        "iterated": {"numbers": {"value": 1}},
        "refused": "CURSOR_EXPIRED",
        # Known are those of the same history, up to the last one.
        "taken": [False, False, True, False, True, True],
    }


def test_the_package_is_commonjs_too_and_small(project: Path) -> None:
    names = "resumeExchange, resumeLink, retryOptions, withResume"
    code = f"const {{ {names} }} = require('gqlnotify'); console.log({names})"
    run = subprocess.run(["node", "--eval", code], cwd=project, check=True, capture_output=True)
    assert b"undefined" not in run.stdout
    modules = (project / "node_modules" / "gqlnotify" / "dist").glob("*.js")
    lines = [line.strip() for module in modules for line in module.read_text().splitlines()]
    # A minifier, which shortens names too, leaves two thirds of this.
    code = "\n".join(line for line in lines if not line.startswith(("//", "/*", "*", "import")))
    assert len(gzip.compress(code.encode())) < 2500
