"""Who is told what: the client of its own errors, the log of the service's."""

import pytest

from gqlnotify import Principal
from gqlnotify.auth import Viewer, viewing
from schema.app import schema


async def test_what_a_client_did_wrong_leaves_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for query in ("{ me { subject } }", "{ nonsense }", "{"):
        result = await schema.execute(query)
        assert result.errors

    assert not caplog.records


async def test_what_broke_is_in_the_log_and_not_in_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with viewing(Viewer(Principal("alice"))):
        result = await schema.execute('{ task(id: "1") { id } }', context_value=None)

    assert result.errors is not None
    assert [error.message for error in result.errors] == ["Internal server error"]
    assert "has no attribute 'context'" in caplog.text or "has no attribute 'store'" in caplog.text
