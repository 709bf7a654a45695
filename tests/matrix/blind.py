"""`python -m tests.matrix.blind`: events between a client's first ping and its first event."""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.chaos.participants import SECRET
from tests.redis_servers import redis_server
from tests.rolling import task_service
from tests.servers import PATIENCE, node
from tests.waiting import SCALE

_COMES_BACK = 20 * SCALE


def run(times: int, *, at_once: int, logs: Path) -> Any:
    """Cut graphql-ws so many times, and return the counts of the script."""
    with redis_server() as redis, ExitStack() as running:
        settings = {"broker_url": redis.url, "max_connections_per_subject": 1000}
        servers = [running.enter_context(task_service(logs / name, **settings)) for name in "ab"]
        addresses = [server.http.removeprefix("http://") for server in servers]
        script = running.enter_context(
            node(
                "blind.mjs",
                servers=addresses,
                times=times,
                at_once=at_once,
                patience=_COMES_BACK,
                secret=SECRET,
            )
        )
        # Long enough, even if every client waits in vain.
        output, _ = script.communicate(timeout=PATIENCE + times / at_once * _COMES_BACK)
        return json.loads(output)


def main() -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix.blind")
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blind-") as logs:
        counts = run(options.times, at_once=options.at_once, logs=Path(logs))
    print(counts)
    return int(counts["lost"] + counts["unarmed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
