from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gqlnotify import Settings
from schema.settings import TaskSettings

IN_THE_ENVIRONMENT: dict[str, tuple[str, Any]] = {
    "database_url": ("postgresql://elsewhere/tasks", "postgresql://elsewhere/tasks"),
    "outbox_max_lag": ("26.5", 26.5),
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in TaskSettings.model_fields:
        monkeypatch.delenv(f"GQLNOTIFY_{name.upper()}", raising=False)


def test_the_service_adds_these_settings_to_those_of_the_library() -> None:
    assert set(TaskSettings.model_fields) == {*Settings.model_fields, *IN_THE_ENVIRONMENT}


def test_the_defaults_need_no_database_server() -> None:
    settings = TaskSettings()

    assert (settings.database_url, settings.outbox_max_lag) == ("sqlite:///gqlnotify.db", 30)


@pytest.mark.parametrize("name", IN_THE_ENVIRONMENT)
def test_every_setting_can_be_set_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    text, value = IN_THE_ENVIRONMENT[name]
    monkeypatch.setenv(f"GQLNOTIFY_{name.upper()}", text)

    assert getattr(TaskSettings(), name) == value
    assert Settings()
    assert caplog.messages == []


@pytest.mark.parametrize("lag", ["0", "-1", "many", "nan"])
def test_a_lag_is_a_positive_number(monkeypatch: pytest.MonkeyPatch, lag: str) -> None:
    monkeypatch.setenv("GQLNOTIFY_OUTBOX_MAX_LAG", lag)

    with pytest.raises(ValidationError, match="outbox_max_lag"):
        TaskSettings()


def test_the_password_of_the_database_is_not_printed() -> None:
    settings = TaskSettings(database_url="postgresql://tasks:hunter2@host/tasks")

    assert "hunter2" not in f"{settings} {settings!r}"


def test_the_library_refuses_an_argument_of_the_service() -> None:
    with pytest.raises(ValueError, match="'database_url' is not a setting"):
        Settings(database_url="sqlite:///x")  # type: ignore[call-arg]
