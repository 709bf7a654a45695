"""`gqlnotify console`, in a process of its own."""

import re
from uuid import uuid4

import httpx

from tests.cli.support import read_until, run, serving
from tests.servers import NO_TLS

QUERY = {"query": "{ overview { processes { connections } silent { name } } }"}


def test_it_needs_a_broker_that_is_shared() -> None:
    done = run("console", settings={"GQLNOTIFY_BROKER_URL": "memory://"})

    assert done.returncode == 2
    assert "set GQLNOTIFY_BROKER_URL to a Redis" in done.stderr


def test_it_listens_on_this_machine_only() -> None:
    done = run(
        *("console", "--host", "0.0.0.0"),
        settings={"GQLNOTIFY_BROKER_URL": "redis://127.0.0.1:1"},
    )

    assert done.returncode == 2
    assert "can be reached from other machines" in done.stderr


async def test_the_printed_address_opens_it(redis_url: str) -> None:
    broker = {"GQLNOTIFY_BROKER_URL": redis_url, "GQLNOTIFY_BROKER_PREFIX": f"console-{uuid4()}"}
    with serving("--port", "0", settings=broker, command="console") as process:
        printed = read_until(process, "Application startup complete")
        found = re.search(r"Console: +(\S+)/console#token=(\S+)", printed)
        assert found is not None
        api, headers = f"{found[1]}/console/graphql", {"Authorization": f"Bearer {found[2]}"}
        # The application has started, but its process may not listen yet.
        transport = httpx.AsyncHTTPTransport(verify=NO_TLS, retries=5)
        async with httpx.AsyncClient(transport=transport) as client:
            refused = await client.post(api, json=QUERY)
            answer = await client.post(api, json=QUERY, headers=headers)

    assert refused.status_code == 401
    # The console itself is no server.
    assert answer.json()["data"] == {"overview": {"processes": [], "silent": []}}
