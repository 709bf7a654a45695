"""Promise 5: an event exists if and only if the change was committed, whenever a process dies."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.outbox.kills import INSTANTS, SPAN
from tests.redis_servers import RedisServer, redis_server
from tests.servers import ROOT

pytestmark = pytest.mark.processes

KILLS = int(os.environ.get("OUTBOX_KILLS", len(INSTANTS)))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def test_after_each_kill_what_was_committed_is_published_once_and_nothing_else(
    database_url: str, server: RedisServer
) -> None:
    command = [sys.executable, "-m", "tests.outbox.kills", f"--kills={KILLS}"]
    command += [f"--database={database_url}", f"--broker={server.url}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    result = json.loads(done.stdout)
    committed, published = result["committed"], result["published"]

    print(f"{KILLS} kills, {len(committed)} committed, {len(published)} published")
    assert committed
    assert sorted(published) == sorted(committed)
    assert all(number % 3 != 2 for number in published)
    if database_url.startswith("sqlite"):
        assert published == committed
    # Those of one writer, whose transactions follow each other.
    for writer in {number // SPAN for number in published}:
        mine = [number for number in published if number // SPAN == writer]
        assert mine == sorted(mine)
