"""An application's own tests pass, with a loop for each, and leave nothing behind."""

import os
import subprocess
import sys

import pytest

from tests.servers import PATIENCE, ROOT

pytestmark = pytest.mark.processes

OPTIONS = [
    *("-W", "error", "-p", "no:cacheprovider", "--noconftest"),
    # Starlette's test client warns of the httpx that this project has.
    *("-W", "ignore:Using `httpx` with"),
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
