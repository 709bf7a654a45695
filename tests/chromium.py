"""Headless Chromium for tests: windows of people who share nothing, driven as people do."""

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.waiting import wait_until


class Browser:
    """A Chromium that is controlled by its DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._windows: dict[str, Window] = {}

    async def command(self, method: str, *, session: str | None = None, **params: Any) -> Any:
        """Send a command and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._connection.send(json.dumps(message))
        return await answer

    async def open_window(self, url: str) -> "Window":
        """Open a page in a window with storage of its own."""
        context = (await self.command("Target.createBrowserContext"))["browserContextId"]
        target = await self.command(
            "Target.createTarget",
            url="about:blank",
            browserContextId=context,
            newWindow=True,
        )
        attached = await self.command(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        session = attached["sessionId"]
        window = self._windows[session] = Window(self, session)
        await window.command("Network.enable")
        await window.command("Page.navigate", url=url)
        return window

    async def read(self) -> None:
        """Hand each answer to its command, until the connection ends."""
        with suppress(ConnectionClosed):
            async for text in self._connection:
                self._receive(json.loads(text))
        for answer in self._answers.values():
            answer.set_exception(RuntimeError("The browser has ended"))

    def _receive(self, message: Any) -> None:
        if "id" not in message:
            if window := self._windows.get(message.get("sessionId", "")):
                window.note(message["method"], message["params"])
            return
        answer = self._answers.pop(message["id"])
        if answer.done():
            return
        if "error" in message:
            answer.set_exception(RuntimeError(message["error"]["message"]))
        else:
            answer.set_result(message["result"])


class Window:
    """One window. Elements are found by their role and name, as assistive technology finds them.

    `received` and `sent` are the JSON messages of its page's WebSockets.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self.received: list[Any] = []
        self.sent: list[Any] = []
        self._browser = browser
        self._session = session

    async def command(self, method: str, **params: Any) -> Any:
        """Send a command to this window's page and return its result."""
        return await self._browser.command(method, session=self._session, **params)

    def note(self, event: str, params: Any) -> None:
        """Note what the page's WebSockets receive and send."""
        messages = {
            "Network.webSocketFrameReceived": self.received,
            "Network.webSocketFrameSent": self.sent,
        }
        if event in messages:
            messages[event].append(json.loads(params["response"]["payloadData"]))

    async def click(self, role: str, name: str) -> None:
        """Click the element once it is there."""
        await self._find(role, name, "click")

    async def type(self, name: str, text: str) -> None:
        """Type a text into the field once it is there."""
        await self._find("textbox", name, "focus")
        await self.command("Input.insertText", text=text)

    async def fill(self, name: str, text: str) -> None:
        """Type a text into the field once it is there, and press Enter."""
        await self.type(name, text)
        await self._enter()

    async def close(self) -> None:
        """Close the window, as its button does."""
        await self.command("Page.close")

    async def choose(self, name: str, option: str) -> None:
        """Type the text of an option into the list of choices once it is there."""
        await self._find("combobox", name, "focus")
        for character in option:
            await self.command("Input.dispatchKeyEvent", type="char", text=character)

    async def press(self, role: str, name: str) -> None:
        """Press Enter on the element once it is there."""
        await self._find(role, name, "focus")
        await self._enter()

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def texts(self, selector: str) -> list[str]:
        """Return the visible texts of the elements that match a CSS selector."""
        elements = f"document.querySelectorAll({json.dumps(selector)})"
        texts: list[str] = await self.evaluate(f"Array.from({elements}, e => e.innerText)")
        return texts

    async def _enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.command("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r")

    async def _find(self, role: str, name: str, action: str) -> None:
        found = f"""[...document.querySelectorAll('*')].filter(
            e => e.computedRole === {json.dumps(role)} && e.computedName === {json.dumps(name)}
        )"""
        await wait_until(lambda: self.evaluate(f"{found}.length === 1"))
        await self.evaluate(f"{found}[0].{action}()")


@asynccontextmanager
async def chromium(directory: Path) -> AsyncIterator[Browser]:
    """Run Chromium with its profile in `directory`.

    If it is not installed, the test is skipped, but fails in CI.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        assert not os.environ.get("CI"), "the tests in a browser must run here"
        pytest.skip("Chromium is not installed")
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-blink-features=ComputedAccessibilityInfo",
        "--remote-debugging-port=0",
        f"--user-data-dir={directory}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with connect(await _address(directory), max_size=None, proxy=None) as connection:
            browser = Browser(connection)
            reading = asyncio.create_task(browser.read())
            yield browser
            reading.cancel()
    finally:
        process.terminate()
        await process.wait()


async def _address(directory: Path) -> str:
    file = directory / "DevToolsActivePort"
    await wait_until(lambda: file.exists() and "\n" in file.read_text())
    port, path = file.read_text().split()
    return f"ws://127.0.0.1:{port}{path}"
