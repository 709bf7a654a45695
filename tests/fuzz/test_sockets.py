"""The short form of `make fuzz`: random sockets against a real server."""

import random
from pathlib import Path

import pytest

from tests.fuzz.sockets import APP, play
from tests.servers import DIRECT, PATIENCE, serving

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("path", [DIRECT, ()], ids=["direct", "portable"])
async def test_no_input_of_a_socket_disturbs_the_server_or_leaves_anything(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    with serving(APP, tmp_path, *path, topic_linger=0) as server:
        report = await play(server, seed, inputs=500, seconds=PATIENCE)
    assert report.problems == [], report
    assert report.inputs > 100
    assert report.outcomes["closed with 1000"] > 0
    assert report.outcomes["closed with 1002"] > 0
