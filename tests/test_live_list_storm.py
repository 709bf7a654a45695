"""Clients of live lists agree with the database, whatever is cut or lost: in short.

`make live-lists` runs it with a thousand clients.
"""

import random

import pytest

from tests.live_list_storm import OWNERS, storm
from tests.redis_servers import redis_server


@pytest.mark.processes
async def test_each_list_equals_the_database_after_cuts_and_a_storm() -> None:
    happened = await storm(30, rounds=3, seed=random.randrange(10**6), server=None)

    assert len(happened.loads) == 2
    assert max(happened.loads.values()) <= len(OWNERS)


@pytest.mark.processes
async def test_each_list_equals_the_database_after_redis_has_lost_all() -> None:
    with redis_server() as server:
        happened = await storm(20, rounds=3, seed=random.randrange(10**6), server=server)

    assert happened.loads["Redis has lost all"] <= len(OWNERS)
