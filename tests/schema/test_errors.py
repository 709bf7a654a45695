import pytest

from gqlnotify import errors
from schema.errors import Conflict, NotFound


@pytest.mark.parametrize(
    ("error", "code", "status"), [(NotFound, "NOT_FOUND", 404), (Conflict, "CONFLICT", 409)]
)
def test_the_codes_that_clients_rely_on_stay_what_they_are(
    error: type[errors.NotifyError], code: str, status: int
) -> None:
    assert (error.code, error.http_status) == (code, status)
    assert error("why", id="1").formatted() == {
        "message": "why",
        "extensions": {"code": code, "id": "1"},
    }
