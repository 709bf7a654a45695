from typing import Any

import pytest
from pydantic import ValidationError

from gqlnotify import Settings

SECRET = "a secret that must stay one"
IN_THE_ENVIRONMENT: dict[str, tuple[str, Any]] = {
    "broker_url": ("redis://elsewhere", "redis://elsewhere"),
    "database_url": ("postgresql://elsewhere/tasks", "postgresql://elsewhere/tasks"),
    "jwt_algorithm": ("ES384", "ES384"),
    "jwt_audience": ("us", "us"),
    "jwt_issuer": ("them", "them"),
    "jwt_require_exp": ("false", False),
    "connection_init_wait": ("1.5", 1.5),
    "ping_interval": ("2.5", 2.5),
    "ping_timeout": ("3.5", 3.5),
    "max_operations": ("4", 4),
    "message_max_bytes": ("5", 5),
    "event_max_bytes": ("6", 6),
    "history_length": ("7", 7),
    "history_seconds": ("8.5", 8.5),
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GQLNOTIFY_{name.upper()}", raising=False)


def test_the_defaults_need_nothing_but_this_process() -> None:
    settings = Settings()

    assert settings.broker_url == "memory://"
    assert settings.database_url.startswith("sqlite")
    assert settings.jwt_secret is None
    assert settings.jwt_algorithm == "HS256"


@pytest.mark.parametrize("name", IN_THE_ENVIRONMENT)
def test_every_option_can_be_set_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, value = IN_THE_ENVIRONMENT[name]
    assert getattr(Settings(), name) != value
    monkeypatch.setenv(f"GQLNOTIFY_{name.upper()}", text)

    assert getattr(Settings(), name) == value


def test_no_option_is_left_out_here() -> None:
    assert set(Settings.model_fields) == {*IN_THE_ENVIRONMENT, "jwt_secret"}


def test_the_secret_is_read_from_the_environment_and_never_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GQLNOTIFY_JWT_SECRET", SECRET)
    settings = Settings()

    assert settings.jwt_secret is not None
    assert settings.jwt_secret.get_secret_value() == SECRET
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()}"
    assert SECRET not in settings.model_dump_json()


def test_an_empty_secret_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQLNOTIFY_JWT_SECRET", "")

    assert Settings().jwt_secret is None


def test_what_is_given_by_name_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GQLNOTIFY_HISTORY_LENGTH", "1")

    assert Settings(history_length=2).history_length == 2


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS", "PS256", "hs256"])
def test_an_algorithm_without_a_rule_here_is_refused(algorithm: str) -> None:
    with pytest.raises(ValidationError):
        Settings(jwt_algorithm=algorithm)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [name for name, (_, value) in IN_THE_ENVIRONMENT.items() if not isinstance(value, str | bool)],
)
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_limit_is_a_positive_number(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"GQLNOTIFY_{name.upper()}", value)

    with pytest.raises(ValidationError, match=name):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().history_length = 1


def test_a_refused_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQLNOTIFY_JWT_SECRET", SECRET)
    monkeypatch.setenv("GQLNOTIFY_HISTORY_LENGTH", "none")

    with pytest.raises(ValidationError) as refusal:
        Settings()
    assert SECRET not in str(refusal.value)
