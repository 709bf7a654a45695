"""The npm package of clients/js, packed and installed, with stock clients and a real server."""

import asyncio
import gzip
import json
import random
import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.proxy import Proxy
from tests.servers import CLIENTS, DIRECT, NO_TLS, ROOT, UVICORN, Server, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

APP = "tests.e2e.streaming:app"
# While it is down, the proxy looks for it: on a port that the kernel gives to no connection.
PROGRAM = replace(UVICORN, takes_a_free_port=False)
STOCK = [
    "graphql-ws",
    "iterate",
    "Apollo, WebSocket",
    "Apollo, multipart",
    "urql, WebSocket",
    "urql, SSE",
]
PUBLISH = "mutation ($name: String!, $value: Int!) { publish(name: $name, value: $value) }"


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
    shutil.copy(CLIENTS / "helper.mjs", project)
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
async def following(project: Path, proxy: int, **options: Any) -> AsyncIterator[Followers]:
    address = f"127.0.0.1:{proxy}/graphql"
    options = {"clients": STOCK, "http": f"http://{address}", "ws": f"ws://{address}", **options}
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


async def restart(server: Server) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def ask(server: Server, document: str, **variables: Any) -> Any:
    request = {"query": document, "variables": variables}
    async with httpx.AsyncClient(verify=NO_TLS) as http:
        answer = (await http.post(f"{server.http}/graphql", json=request)).json()
    assert "errors" not in answer, answer
    return answer["data"]


async def cursor(server: Server, name: str) -> str:
    document = "query ($name: String!) { cursor(name: $name) }"
    return str((await ask(server, document, name=name))["cursor"])


async def test_each_client_gets_each_event_once_over_cuts_and_a_restart(
    project: Path, tmp_path: Path, redis_url: str
) -> None:
    with serving(APP, tmp_path, *DIRECT, program=PROGRAM, broker_url=redis_url) as server:
        name = tmp_path.name
        proxy = Proxy(server.port)
        after = await cursor(server, name)
        async with (
            proxy.listening() as port,
            following(project, port, name=name, after=after) as followers,
        ):
            await ask(server, PUBLISH, name=name, value=1)
            await wait_until(lambda: followers.have(1))
            for value in range(2, 40):
                await ask(server, PUBLISH, name=name, value=value)
                if random.random() < 0.3:
                    proxy.cut()
                if value == 20:
                    await restart(server)
            await ask(server, PUBLISH, name=name, value=40)
            await wait_until(lambda: followers.have(40))

    assert followers.values == {client: list(range(1, 41)) for client in STOCK}


async def test_a_client_whose_cursor_expired_fetches_the_list_and_continues_after_it(
    project: Path, tmp_path: Path
) -> None:
    with serving(APP, tmp_path, *DIRECT, program=PROGRAM, broker_url="memory://") as server:
        proxy = Proxy(server.port)
        after = await cursor(server, "expired")
        options = {"name": "expired", "after": after, "server": f"{server.http}/graphql"}
        async with (
            proxy.listening() as port,
            following(project, port, **options) as followers,
        ):
            await ask(server, PUBLISH, name="expired", value=1)
            await wait_until(lambda: followers.have(1))
            await restart(server)
            await wait_until(lambda: set(followers.refetched) == set(STOCK))
            for value in (2, 3):
                await ask(server, PUBLISH, name="expired", value=value)
            await wait_until(lambda: followers.have(3))

    assert followers.values == {client: [1, 2, 3] for client in STOCK}
    assert sorted(followers.refetched) == sorted(STOCK)


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
