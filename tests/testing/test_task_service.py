"""The kit on a real application: the task service, with a database in threads and an outbox."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from gqlnotify import Settings
from gqlnotify.testing import Operation, Tokens, chaos, connect
from schema.app import create_app
from schema.settings import TaskSettings

CREATE = "mutation ($title: String!) { createTask(input: {title: $title}) { id } }"


@pytest.fixture
def gqlnotify_settings(tmp_path: Path) -> Settings:
    return TaskSettings(
        jwt_secret=SecretStr("a secret of the tasks, 32 bytes or more"),
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'tasks.db'}",
    )


async def test_it_survives_chaos(gqlnotify_settings: TaskSettings, tokens: Tokens) -> None:
    app = create_app(gqlnotify_settings)
    token = tokens("ann", subscribe="*", publish="*")

    async with connect(app, token=token) as ann:

        async def create(number: int) -> None:
            await ann.execute(CREATE, {"title": f"task {number}"})

        events = Operation(
            document="subscription { taskEvents { kind task { id title } } }", cause=create
        )
        viewers = [token, tokens("bob", subscribe="tasks")]
        report = await chaos(app, [events], viewers=viewers, missed=30, crowd=10)

    report.check()
