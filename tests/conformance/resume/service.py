"""The task service, to be checked: processes of its own on free loopback ports."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.resume.contract import TASK_SERVICE, Contract, read
from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.redis_servers import redis_server
from tests.servers import SERVE, Server, serving

APPLICATION = "schema.app:app"
# Redis removes the oldest events in blocks of a hundred.
HISTORY, EXPIRES_AFTER = 20, 250


@contextmanager
def task_service(broker: str) -> Iterator[Contract]:
    """Start the task service, and yield its contract.

    Args:
        broker: `memory` for one process, or `redis` for two and a Redis of their own.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if broker == "redis":
            broker_url = stack.enter_context(redis_server()).url
            names = ["one", "other"]
        else:
            broker_url, names = "memory://", ["only"]
        servers = [
            stack.enter_context(_serving(directory / name, broker_url, f"{directory}/tasks.db"))
            for name in names
        ]
        processes = [each.process.pid for each in servers if each.process is not None]
        stop = ["kill", "-TERM", *map(str, processes)]
        yield contract_of([server.http for server in servers], stop=stop)


def contract_of(origins: Sequence[str], **more: Any) -> Contract:
    """Return the contract of a task service with this history."""
    return read(
        TASK_SERVICE,
        [f"{origin}/graphql" for origin in origins],
        token=token("alice"),
        other_token=token("bob"),
        **{"expires_after": EXPIRES_AFTER, **more},
    )


@contextmanager
def _serving(directory: Path, broker_url: str, database: str) -> Iterator[Server]:
    directory.mkdir()
    with serving(
        APPLICATION,
        directory,
        program=SERVE,
        jwt_secret=SECRET,
        broker_url=broker_url,
        database_url=f"sqlite:///{database}",
        history_length=HISTORY,
        # A process that still listens to a topic has more of its events than the history.
        topic_linger=0,
    ) as server:
        yield server
