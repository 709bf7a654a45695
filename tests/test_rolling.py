"""The short form of `make rolling`."""

from pathlib import Path

import pytest

from tests.rolling import run

pytestmark = pytest.mark.processes


def test_a_rolling_restart_under_load_loses_nothing(tmp_path: Path) -> None:
    report = run(2, clients=20, window=1, logs=tmp_path)

    assert report.good, report
    assert report.events > 50
    assert report.closes[1012] > 0
