"""A browser's `EventSource` loses nothing, without any code for it."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gqlnotify import Settings
from tests.applications import ALL_PROTOCOLS, application
from tests.e2e.conftest import SECRET
from tests.e2e.cut_streams import CutStreams
from tests.e2e.test_compression import program
from tests.e2e.tokens import token
from tests.message_app import MESSAGE_TEXTS, MessageApp
from tests.servers import PATIENCE, running

PAGE = """<!doctype html><script type="module">
const tell = (what, it = null) => fetch(`/${what}`, { method: 'POST', body: JSON.stringify(it) });
const events = new EventSource('/graphql?' + new URLSearchParams({ query: QUERY }));
events.addEventListener('next', ({ data }) => tell('next', JSON.parse(data)));
events.addEventListener('complete', () => events.close());
setInterval(() => tell('lives'), 50);
</script>"""


class Page:
    """The page, and what it tells."""

    def __init__(self) -> None:
        self.told: dict[str, asyncio.Queue[Any]] = {
            "next": asyncio.Queue(),
            "lives": asyncio.Queue(),
        }

    async def show(self, request: Request) -> Response:
        response = HTMLResponse(PAGE.replace("QUERY", json.dumps(MESSAGE_TEXTS)))
        response.set_cookie("session", token(), httponly=True, samesite="lax")
        return response

    async def take(self, request: Request) -> Response:
        self.told[request.path_params["what"]].put_nowait(await request.json())
        return Response()

    async def text(self) -> str:
        result = await self.told["next"].get()
        return str(result["data"]["messages"]["text"])

    async def lives(self, times: int) -> None:
        for _ in range(self.told["lives"].qsize() + times):
            await self.told["lives"].get()


@pytest.mark.processes
async def test_chromium_resumes_even_before_its_first_event(
    message_app: MessageApp, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        assert not os.environ.get("CI"), "the test in a browser must run here"
        pytest.skip("Chromium is not installed")
    settings = Settings(jwt_secret=SECRET, token_cookie="session")  # type: ignore[arg-type]
    router = message_app.router(settings=settings, subscription_protocols=ALL_PROTOCOLS)
    page, app = Page(), application(router)
    app.add_route("/page", page.show)
    app.add_route("/{what}", page.take, methods=["POST"])
    streams = CutStreams(app)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    async with (
        asyncio.timeout(2 * PATIENCE),
        running(streams) as origin,
        program(chromium, *flags, f"http://{origin}/page"),
    ):
        await streams.positions.get()
        # The page reports again and again, so by then it has read what came before.
        await page.lives(5)
        streams.cut()
        missed = await message_app.say("before the first event")
        assert await page.text() == "before the first event"
        streams.cut()
        for text in ("one", "two"):
            await message_app.say(text)
        assert [await page.text() for _ in range(2)] == ["one", "two"]
    assert streams.last_event_ids[0] is None
    assert streams.last_event_ids[1] is not None
    assert streams.last_event_ids[2] == missed
