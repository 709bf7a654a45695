"""Frames that are compressed once for all peers can be read by every client."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import Subprotocol

from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.raw import MODERN
from tests.e2e.service import SUBSCRIBE, Service, served
from tests.servers import CLIENTS, PATIENCE, patience

pytestmark = pytest.mark.processes

IDS = ("1", 'é"😀')
THRESHOLD = 1024
SIZES = (1, 900, 1100, 4095, 4097, 70_000, 200 * 1024)
# Repetitive text, random text, and text with more than one byte for a character.
TEXTS = [
    made[:size]
    for size in SIZES
    for made in ("abc" * size, token_hex(size // 2 + 1), "é😀\u2028" * size)
]
PAGE = """<!doctype html><script type="module">
import { read } from '/reading.mjs';
const post = (path, body) => fetch(path, { method: 'POST', body: JSON.stringify(body) });
const socket = new WebSocket(`ws://${location.host}/graphql`, 'graphql-transport-ws');
read(socket, OPTIONS, { ready: (it) => post('/ready', it), done: (it) => post('/done', it) });
</script>"""


def options() -> dict[str, Any]:
    return {
        "query": SUBSCRIBE,
        "variables": {"name": "a"},
        "ids": IDS,
        "count": len(IDS) * len(TEXTS),
    }


def by_id(got: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    return {id_: [text for asked, text in got if asked == id_] for id_ in IDS}


WHOLE = dict.fromkeys(IDS, TEXTS)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with served(
        WebSocketProtocol, compress_above=THRESHOLD, event_max_bytes=2**20
    ) as service:
        yield service


def wrote_compressed(service: Service) -> bool:
    """Return whether fewer bytes were written than without compression."""
    return sum(map(len, service.taps.writes)) < len(IDS) * sum(len(t.encode()) for t in TEXTS) / 1.5


@asynccontextmanager
async def program(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=2**24,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.mark.parametrize(
    ("deflate", "inflates"),
    [
        (True, True),
        ({"serverNoContextTakeover": False}, True),
        ({"serverNoContextTakeover": True, "clientNoContextTakeover": True}, True),
        ({"clientMaxWindowBits": 9}, True),
        ({"serverMaxWindowBits": 15, "clientMaxWindowBits": 15}, True),
        ({"serverMaxWindowBits": 12}, True),
        ({"serverMaxWindowBits": 9}, False),
        (False, False),
    ],
    ids=str,
)
@pytest.mark.processes
async def test_node_reads_it(service: Service, deflate: Any, inflates: bool) -> None:
    asked = {**options(), "ws": f"ws://{service.address}/graphql", "deflate": deflate}
    script = str(CLIENTS / "inflate.mjs")
    async with patience(), program("node", script, json.dumps(asked)) as node:
        assert node.stdout is not None
        extensions = json.loads(await node.stdout.readline())
        assert extensions == {"extensions": "permessage-deflate" if deflate else ""}
        await service.publish("a", *TEXTS)
        result = json.loads(await node.stdout.readline())
        assert by_id(result["got"]) == WHOLE
    assert wrote_compressed(service) == inflates


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("no_takeover", [False, True])
async def test_python_reads_it_with_any_window(
    service: Service, bits: int, no_takeover: bool
) -> None:
    factory = ClientPerMessageDeflateFactory(
        server_no_context_takeover=no_takeover,
        server_max_window_bits=bits,
        client_max_window_bits=bits,
    )
    async with patience(), python(service, extensions=[factory], compression=None) as got:
        assert by_id(got) == WHOLE
    assert wrote_compressed(service) == (bits >= 12)


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_python_reads_compressed_frames(service: Service, compression: str | None) -> None:
    async with patience(), python(service, compression=compression) as got:
        assert by_id(got) == WHOLE
    assert wrote_compressed(service) == (compression is not None)


@asynccontextmanager
async def python(service: Service, **extensions: Any) -> AsyncIterator[list[tuple[str, str]]]:
    async with connect(
        f"ws://{service.address}/graphql",
        subprotocols=[Subprotocol(MODERN)],
        proxy=None,
        max_size=None,
        **extensions,
    ) as client:
        await client.send('{"type": "connection_init"}')
        await client.recv()
        for id_ in IDS:
            payload = {"query": SUBSCRIBE, "variables": {"name": "a"}}
            await client.send(json.dumps({"id": id_, "type": "subscribe", "payload": payload}))
        await client.send('{"type": "ping"}')
        await client.recv()
        await service.publish("a", *TEXTS)
        messages = [json.loads(await client.recv()) for _ in range(len(IDS) * len(TEXTS))]
        yield [(m["id"], m["payload"]["data"]["notes"]["text"]) for m in messages]


class Browser:
    """What a page of the service reports to the test."""

    def __init__(self, service: Service) -> None:
        self.reports: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        service.app.add_route("/page", self._page)
        service.app.add_route("/reading.mjs", self._script)
        service.app.add_route("/{what}", self._tell, methods=["POST"])

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(PAGE.replace("OPTIONS", json.dumps(options())))

    async def _script(self, request: Request) -> Response:
        return FileResponse(CLIENTS / "reading.mjs", media_type="text/javascript")

    async def _tell(self, request: Request) -> Response:
        self.reports.put_nowait((request.path_params["what"], await request.json()))
        return Response()


@pytest.mark.processes
async def test_chromium_reads_it(service: Service, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        assert not os.environ.get("CI"), "the test in a browser must run here"
        pytest.skip("Chromium is not installed")
    browser = Browser(service)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    page = f"http://{service.address}/page"
    async with asyncio.timeout(2 * PATIENCE), program(chromium, *flags, page):
        what, extensions = await browser.reports.get()
        assert (what, extensions.split(";")[0]) == ("ready", "permessage-deflate")
        await service.publish("a", *TEXTS)
        what, result = await browser.reports.get()
    assert what == "done"
    assert by_id(result["got"]) == WHOLE
    assert wrote_compressed(service)
