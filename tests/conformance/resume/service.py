"""The task service, to be checked: a process of its own on a free loopback port."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.resume.contract import TASK_SERVICE, Contract, read
from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.servers import SERVE, serving

# Redis removes the oldest events in blocks of a hundred.
HISTORY, EXPIRES_AFTER = 20, 250
APPLICATION = "schema.app:app"


@contextmanager
def task_service(broker_url: str = "memory://") -> Iterator[Contract]:
    """Start the task service, and yield its contract."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(
            APPLICATION,
            Path(directory),
            program=SERVE,
            jwt_secret=SECRET,
            broker_url=broker_url,
            database_url=f"sqlite:///{directory}/tasks.db",
            **SETTINGS,
        ) as server,
    ):
        assert server.process is not None
        stop = ["kill", "-TERM", str(server.process.pid)]
        yield contract_of(server.http, stop=stop)


SETTINGS: dict[str, Any] = {"history_length": HISTORY, "topic_linger": 0}


def contract_of(origin: str, **more: Any) -> Contract:
    """Return the contract of a task service with these settings."""
    return read(
        TASK_SERVICE,
        f"{origin}/graphql",
        token=token("alice"),
        other_token=token("bob"),
        **{"expires_after": EXPIRES_AFTER, **more},
    )
