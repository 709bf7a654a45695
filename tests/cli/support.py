"""Runs `gqlnotify`, in this process or in one of its own."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exception
from typing import Any
from unittest.mock import patch

import httpx
from typer.testing import CliRunner

from gqlnotify.cli import app
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent.parent
SECRET = "a secret that is long enough to be one"
COMMAND = [sys.executable, "-m", "gqlnotify"]


Settings = Mapping[str, str]
Done = subprocess.CompletedProcess[str]


def environment(settings: Settings) -> Settings:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GQLNOTIFY_")}
    return {**inherited, "NO_COLOR": "1", "COLUMNS": "200", **settings}


def run(*arguments: str, settings: Settings | None = None, given: str = "") -> Done:
    """Run a command within this process: another process would need a second for its imports."""
    with patch.dict(os.environ, environment(settings or {}), clear=True):
        done = CliRunner().invoke(app, arguments, input=given, prog_name="gqlnotify")
    stderr = done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        stderr += "".join(format_exception(done.exception))
    return Done(arguments, done.exit_code, done.stdout, stderr)


def run_process(
    *arguments: str, settings: Settings | None = None, cwd: Path = ROOT, given: str = ""
) -> Done:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(settings or {}),
        input=given,
        capture_output=True,
        text=True,
        # A server with two workers is three processes, and each imports everything.
        timeout=2 * PATIENCE,
        check=False,
    )


@contextmanager
def serving(
    *arguments: str, settings: Settings | None = None, cwd: Path = ROOT, command: str = "serve"
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [*COMMAND, command, *arguments],
        cwd=cwd,
        env=environment(settings or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.communicate()


def read_until(process: "subprocess.Popen[bytes]", text: str, seconds: float = PATIENCE) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    seen = ""
    while text not in seen:
        left = max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select([process.stdout], [], [], left)
        assert ready, f"{text!r} did not come within {seconds} s; this did:\n{seen}"
        # Not readline(): select() does not see the rest that it buffers.
        chunk = os.read(process.stdout.fileno(), 65536)
        assert chunk, f"the server ended before {text!r}:\n{seen}"
        seen += chunk.decode()
    return seen


def wait_for_http(url: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            httpx.get(url, headers={"accept": "text/html"}).raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)
        else:
            return


def on(url: str) -> Settings:
    return {"GQLNOTIFY_BROKER_URL": url, "GQLNOTIFY_BROKER_WAIT": "0"}


@contextmanager
def tailing(url: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `gqlnotify tail`, and yield the process once it follows its topics."""
    process = subprocess.Popen(
        [*COMMAND, "tail", *arguments],
        env=environment(on(url)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"Following ")
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(process: "subprocess.Popen[bytes]", last: Any) -> list[dict[str, Any]]:
    """Return the printed events, up to the one with this payload."""
    text = read_until(process, f'"payload": {json.dumps(last)}}}\n')
    return [json.loads(line) for line in text.splitlines()]


def assert_fails(done: Done, status: int, complaint: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
