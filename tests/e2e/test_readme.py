"""The README's client, run as the README says, on a connection that is cut repeatedly."""

import asyncio
import os
import re
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import SECRET
from tests.e2e.proxy import Proxy
from tests.e2e.tokens import token
from tests.servers import CLIENTS, ROOT, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

CREATE = "mutation ($title: String!) { createTask(input: {title: $title}) { id } }"


async def test_the_client_of_the_readme_misses_nothing_when_its_connection_is_cut(
    tmp_path: Path,
) -> None:
    script = re.search(r"```js\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert script is not None
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    bearer = token(subscribe=["tasks"], publish=["tasks"])
    database = f"sqlite:///{tmp_path}/tasks.db"

    with serving("schema.app:app", tmp_path, jwt_secret=SECRET, database_url=database) as server:
        proxy = Proxy(server.port)
        async with (
            proxy.listening() as port,
            httpx.AsyncClient(headers={"authorization": f"Bearer {bearer}"}) as http,
        ):
            source = script[1].replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            (tmp_path / "tasks.mjs").write_text(source)
            node = await asyncio.create_subprocess_exec(
                *("node", "tasks.mjs"),
                cwd=tmp_path,
                env={**os.environ, "TOKEN": bearer},
                stdout=asyncio.subprocess.PIPE,
            )
            seen: list[str] = []
            reading = asyncio.create_task(_titles(node, seen))

            async def create(title: str) -> None:
                request = {"query": CREATE, "variables": {"title": title}}
                answer = await http.post(f"{server.http}/graphql", json=request)
                assert "errors" not in answer.json()

            async def create_until_one_is_seen() -> bool:
                # Before its first event the client has no cursor, and nothing to resume from.
                await create("first")
                return bool(seen)

            await wait_until(create_until_one_is_seen, seconds=30)
            expected = []
            for round_ in range(3):
                proxy.cut()
                expected += [f"{round_}-{n}" for n in range(5)]
                for title in expected[-5:]:
                    await create(title)
                await wait_until(lambda last=expected[-1]: seen[-1] == last, seconds=30)
            node.kill()
            await node.wait()
            await reading

    assert [title for title in seen if title != "first"] == expected


async def _titles(node: asyncio.subprocess.Process, seen: list[str]) -> None:
    assert node.stdout is not None
    async for printed in node.stdout:
        seen += re.findall(r"title: '([^']*)'", printed.decode())
