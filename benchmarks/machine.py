"""What the figures were measured on."""

import os
import platform
import re
import time
from pathlib import Path

from benchmarks.harness import Cores
from benchmarks.subjects import versions


def describe(cores: Cores) -> dict[str, str]:
    """Return the machine, the day and the versions, name by name."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "cores used": f"{cores.server} for the server, {cores.second} for its second process, "
        f"{cores.load} for the rest",
        **versions(),
    }


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
