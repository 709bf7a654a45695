"""The short form of `make conformance`."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

# A few cases are enough of group 6, more than a hundred sequences of UTF-8, and of groups 9, 12 and
# 13, which measure speed with megabytes.
CASES = (
    *("1.*", "2.*", "3.*", "4.*", "5.*", "6.1.*", "6.3.*", "6.4.*", "7.*", "10.*"),
    *("9.1.1", "9.2.1", "9.3.1", "9.5.1", "9.7.1", "12.1.1", "12.1.3", "12.2.2", "12.3.1"),
    *("13.1.1", "13.2.1", "13.3.1", "13.4.1", "13.5.1", "13.6.1", "13.7.1"),
)


def test_no_case_of_autobahns_fails_that_uvicorns_own_class_passes() -> None:
    # In another process: kosoku changes a function of the standard library.
    run = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--at-once", "4", "--cases", *CASES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    ours, stock = (line.split() for line in run.stdout.splitlines()[1:3])
    assert int(ours[1]) == int(stock[1]) > 90
