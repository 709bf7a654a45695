"""Pages in a real Chromium without a network, driven through its DevTools protocol."""

import asyncio
import base64
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.servers import PATIENCE

# Nothing but loopback can be reached: any other name fails to resolve.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-port=0",
    "--window-size=1400,900",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


class Page:
    """A tab, what it requested, and the errors of its scripts and of its security policy."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._ids = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def read(self) -> None:
        """Handle what the browser sends, until it closes."""
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: Any) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["source"] == "security":
            self.complaints.append(params["entry"]["text"])

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of the DevTools protocol and return its result."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in message, message
        return message["result"]

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        result = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until the value of an expression is truthy, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not (value := await self.run(script)):
            if time.monotonic() > deadline:
                shown = await self.run("document.body.innerText")
                pytest.fail(f"{script} is {value!r}. The page shows:\n{shown}\n{self.complaints}")
            await asyncio.sleep(0.05)
        return value

    async def click(self, selector: str) -> None:
        """Click on an element once it is there, and give it the focus."""
        element = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"!!{element}")
        await self.run(f"{element}.focus(), {element}.click()")

    async def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        await self.call("Input.insertText", text=text)

    async def screenshot(self) -> bytes:
        """Return a PNG of the page."""
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Page]:
    """Start a Chromium with one empty tab."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        assert not os.environ.get("CI"), "the tests in a browser must run here"
        pytest.skip("Chromium is not installed")
    process = await asyncio.create_subprocess_exec(
        program,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            address = await _address(process)
        async with _tab(address) as page:
            yield page
    finally:
        process.terminate()
        await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    seen = ""
    while (found := re.search(r"DevTools listening on (ws://\S+)", seen)) is None:
        line = await process.stderr.readline()
        assert line, f"Chromium ended:\n{seen}"
        seen += line.decode()
    return found[1]


@asynccontextmanager
async def _tab(address: str) -> AsyncIterator[Page]:
    async with websockets.connect(address, max_size=None, proxy=None) as socket:
        await socket.send(json.dumps({"id": 0, "method": "Target.getTargets"}))
        targets = json.loads(await socket.recv())["result"]["targetInfos"]
    [target] = [each["targetId"] for each in targets if each["type"] == "page"]
    url = re.sub(r"/devtools/browser/.*", f"/devtools/page/{target}", address)
    async with websockets.connect(url, max_size=None, proxy=None) as socket:
        page = Page(socket)
        reading = asyncio.create_task(page.read())
        try:
            for domain in ("Page", "Runtime", "Network", "Log"):
                await page.call(f"{domain}.enable")
            yield page
        finally:
            reading.cancel()
            await asyncio.wait([reading])
