"""The short form of `make simulate`, in interpreters of its own, whose clocks are virtual."""

import subprocess
import sys

import pytest

from tests.simulation.safeguards import ROOT, SAFEGUARDS

pytestmark = pytest.mark.processes


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_promise_is_broken_in_the_first_seeds() -> None:
    run = simulate("--seeds", "6", "--processes", "1")
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_safeguard_is_in_the_code_once() -> None:
    for safeguard in SAFEGUARDS:
        text = (ROOT / "gqlnotify" / safeguard.file).read_text()
        assert text.count(safeguard.old) == 1, safeguard.name


def test_a_seed_leaves_the_same_trace_each_time() -> None:
    first, second = simulate("--replay", "5"), simulate("--replay", "5")
    assert "gets" in first.stdout
    assert first.stdout == second.stdout
