import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import SettingsError

from gqlnotify import Settings
from gqlnotify.settings import HELLOS, SURVEYS, Bounds, Retention, unknown_variables, warn_once

SECRET = "a secret that must stay one"
IN_THE_ENVIRONMENT: dict[str, tuple[str, Any]] = {
    "broker_url": ("redis://elsewhere", "redis://elsewhere"),
    "broker_timeout": ("0.5", 0.5),
    "broker_wait": ("1.5", 1.5),
    "broker_prefix": ("shop:eu.1-a", "shop:eu.1-a"),
    "jwt_algorithm": ("ES384", "ES384"),
    "jwt_audience": ("us", "us"),
    "jwt_issuer": ("them", "them"),
    "jwt_require_exp": ("false", False),
    "jwt_leeway": ("30.5", 30.5),
    "jwt_max_lifetime": ("86400", 86_400),
    "jwks_url": ("https://keys.example/jwks.json", "https://keys.example/jwks.json"),
    "jwks_cache": ("10.5", 10.5),
    "jwks_timeout": ("11.5", 11.5),
    "token_cookie": ("session", "session"),
    "max_failed_authentications": ("12", 12),
    "query_token": ("true", True),
    "allowed_origins": ('["https://app.example"]', ("https://app.example",)),
    "max_connections": ("13", 13),
    "max_connections_per_subject": ("14", 14),
    "new_topics_per_subject": ("15", 15),
    "handshake_timeout": ("15.5", 15.5),
    "connection_init_wait": ("1.5", 1.5),
    "ping_interval": ("2.5", 2.5),
    "ping_timeout": ("3.5", 3.5),
    "max_operations": ("4", 4),
    "message_max_bytes": ("5", 5),
    "body_max_bytes": ("16", 16),
    "upload_max_bytes": ("17", 17),
    "message_rate": ("17.5", 17.5),
    "message_burst": ("18", 18),
    "outgoing_max_bytes": ("19", 19),
    "send_timeout": ("20.5", 20.5),
    "query_max_tokens": ("21", 21),
    "query_max_depth": ("22", 22),
    "query_max_aliases": ("23", 23),
    "query_max_complexity": ("24", 24),
    "extensions_max_bytes": ("27", 27),
    "introspection": ("false", False),
    "persisted_operations": ("operations.json", Path("operations.json")),
    "only_persisted": ("true", True),
    "drain_window": ("25.5", 25.5),
    "log_format": ("json", "json"),
    "log_level": ("warning", "warning"),
    "execution_timeout": ("7", 7.0),
    "execution_concurrency": ("8", 8),
    "replay_rate": ("250", 250.0),
    "snapshot_reuse": ("0.5", 0.5),
    "outcome_cache_bytes": ("7", 7),
    "compress_above": ("8", 8),
    "auto_resume": ("true", True),
    "anonymous_sessions": ("true", True),
    "auto_resume_seconds": ("6.5", 6.5),
    "ack_interval": ("0.5", 0.5),
    "trace_bytes": ("1000", 1000),
    "trace_seconds": ("60.5", 60.5),
    "event_max_bytes": ("6", 6),
    "history_length": ("7", 7),
    "history_seconds": ("8.5", 8.5),
    "history_per_topic": (
        '{"prices.*": {"length": 9}, "*": {"seconds": 0.5}}',
        {"prices.*": Bounds(length=9), "*": Bounds(seconds=0.5)},
    ),
    "topic_linger": ("9.5", 9.5),
    "presence_grace": ("2.5", 2.5),
}
NUMBERS = [name for name, (_, value) in IN_THE_ENVIRONMENT.items() if type(value) in (int, float)]
MAY_BE_ZERO = {
    "trace_bytes",
    "drain_window",
    "jwt_leeway",
    "broker_wait",
    "topic_linger",
    "presence_grace",
    "outcome_cache_bytes",
    "snapshot_reuse",
    "compress_above",
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GQLNOTIFY_{name.upper()}", raising=False)


def test_the_defaults_need_nothing_but_this_process() -> None:
    settings = Settings()

    assert settings.broker_url == "memory://"
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


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["0", "-1", "many", "nan"])
def test_a_limit_is_a_positive_number(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    if value == "0" and name in MAY_BE_ZERO:
        return
    monkeypatch.setenv(f"GQLNOTIFY_{name.upper()}", value)

    with pytest.raises(ValidationError, match=name):
        Settings()


@pytest.mark.parametrize("name", sorted(MAY_BE_ZERO))
def test_there_may_be_no_waiting_at_all(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"GQLNOTIFY_{name.upper()}", "0")

    assert getattr(Settings(), name) == 0


@pytest.mark.parametrize("prefix", ["a b", "{tag}", "a*", "é", "a\n"])
def test_a_prefix_is_made_of_what_is_safe_in_keys_and_patterns(prefix: str) -> None:
    with pytest.raises(ValidationError, match="broker_prefix"):
        Settings(broker_prefix=prefix)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().history_length = 1


def test_a_refused_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQLNOTIFY_JWT_SECRET", SECRET)
    monkeypatch.setenv("GQLNOTIFY_HISTORY_LENGTH", "none")

    with pytest.raises(ValidationError) as refusal:
        Settings()
    assert SECRET not in str(refusal.value)


# what is not a setting


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("jwt_secert", "jwt_secret"), ("history_lenght", "history_length"), ("colour", None)],
)
def test_an_argument_that_is_not_a_setting_is_refused_with_the_nearest(
    name: str, nearest: str | None
) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not a setting") as refusal:
        Settings(**{name: SECRET})  # type: ignore[arg-type]
    assert (f"did you mean {nearest}?" in str(refusal.value)) is (nearest is not None)
    assert SECRET not in str(refusal.value)


def test_a_variable_that_is_not_a_setting_is_named_once_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    monkeypatch.setenv("GQLNOTIFY_JWT_SECERT", SECRET)
    monkeypatch.setenv("gqlnotify_max_connection", "5")
    monkeypatch.setenv("GQLNOTIFY_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("gqlnotify_ping_interval", "5")

    assert Settings().ping_interval == Settings().ping_interval == 5
    assert sorted(caplog.messages) == [
        "GQLNOTIFY_JWT_SECERT is not a setting and has no effect; "
        "did you mean GQLNOTIFY_JWT_SECRET?",
        "GQLNOTIFY_PORT_8000_TCP is not a setting and has no effect",
        "gqlnotify_max_connection is not a setting and has no effect; "
        "did you mean GQLNOTIFY_MAX_CONNECTIONS?",
    ]


def test_settings_that_an_application_adds_are_settings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Ours(Settings):
        colour: str = "red"
        shape: str = Field(default="round", validation_alias="FORM")

    warn_once.cache_clear()
    monkeypatch.setenv("GQLNOTIFY_COLOUR", "blue")

    monkeypatch.setenv("FORM", "flat")

    assert (Ours().colour, Ours().shape) == ("blue", "flat")
    assert Ours(colour="green", FORM="square").shape == "square"  # type: ignore[call-arg]
    assert caplog.messages == []
    with pytest.raises(ValueError, match="did you mean colour"):
        Ours(color="green")  # type: ignore[call-arg]


def test_the_settings_of_an_application_are_known_to_every_part_of_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    monkeypatch.setenv("GQLNOTIFY_WIDTH", "5")
    monkeypatch.setenv("GQLNOTIFY_WIDHT", "5")
    monkeypatch.setenv("GQLNOTIFY_OLD_HEIGHT", "6")
    assert unknown_variables()["GQLNOTIFY_WIDTH"] is None

    class Sized(Settings):
        width: int = 1

    class Taller(Sized):
        height: int = Field(
            default=1, validation_alias=AliasChoices("GQLNOTIFY_HEIGHT", "GQLNOTIFY_OLD_HEIGHT")
        )

    assert unknown_variables() == {"GQLNOTIFY_WIDHT": "GQLNOTIFY_WIDTH"}
    assert Settings().model_fields_set == set()
    assert (Taller().width, Taller().height) == (5, 6)
    assert caplog.messages == [
        "GQLNOTIFY_WIDHT is not a setting and has no effect; did you mean GQLNOTIFY_WIDTH?"
    ]


@pytest.mark.processes
def test_a_variable_of_another_application_is_named_as_one_without_effect() -> None:
    code = "from gqlnotify import Settings; Settings(); import schema.settings; Settings()"
    environment = {**os.environ, "GQLNOTIFY_DATABASE_URL": "sqlite:///x"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == "GQLNOTIFY_DATABASE_URL is not a setting and has no effect\n"


# how much a topic remembers


def retention(monkeypatch: pytest.MonkeyPatch, per_topic: str) -> Retention:
    monkeypatch.setenv("GQLNOTIFY_HISTORY_LENGTH", "10")
    monkeypatch.setenv("GQLNOTIFY_HISTORY_SECONDS", "20")
    monkeypatch.setenv("GQLNOTIFY_HISTORY_PER_TOPIC", per_topic)
    settings = Settings()
    return settings.retention


def test_a_topic_that_fits_no_pattern_has_the_default_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds = retention(monkeypatch, '{"prices.*": {"length": 1}}')

    assert bounds.of("tasks") == Bounds(length=10, seconds=20)
    assert bounds.of("prices") == Bounds(length=10, seconds=20)


def test_what_a_pattern_leaves_out_is_as_in_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = retention(
        monkeypatch, '{"a": {"length": 1}, "b": {"seconds": 2}, "c": {}, "d": {"length": 1000}}'
    )

    assert bounds.of("a") == Bounds(length=1, seconds=20)
    assert bounds.of("b") == Bounds(length=10, seconds=2)
    assert bounds.of("c") == Bounds(length=10, seconds=20)
    assert bounds.of("d") == Bounds(length=1000, seconds=20)


def test_of_several_patterns_that_fit_the_first_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = retention(
        monkeypatch, '{"a.b": {"length": 1}, "a.*": {"length": 2}, "*": {"length": 3}}'
    )

    assert [bounds.of(topic).length for topic in ("a.b", "a.c", "b")] == [1, 2, 3]


def test_our_own_topics_have_bounds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = retention(monkeypatch, '{"*": {"length": 1}, "g*": {"seconds": 1}}')

    assert bounds.of("gqlnotify.revocations") == Bounds(length=500_000, seconds=2_592_300)
    assert bounds.of("gqlnotify") == Bounds(length=1, seconds=20)


def test_only_a_pattern_that_names_our_topics_changes_their_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds = retention(monkeypatch, '{"*": {"length": 1}, "gqlnotify.*": {"seconds": 9000000}}')

    assert bounds.of("gqlnotify.revocations") == Bounds(length=500_000, seconds=9_000_000)


def test_revocations_are_remembered_for_as_long_as_a_token_lives_and_a_while_more() -> None:
    exactly = {"gqlnotify.*": Bounds(seconds=3600)}

    for settings in (
        Settings(jwt_max_lifetime=3600),
        Settings(jwt_max_lifetime=3600, history_per_topic=exactly),
    ):
        assert settings.retention.of("gqlnotify.revocations").seconds == 3900
    endless = Settings(jwt_require_exp=False).retention.of("gqlnotify.revocations")
    assert endless.seconds > 99 * 365 * 86_400


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"jwt_max_lifetime": 3601}, "a token may live 3601.0 s"),
        ({"jwt_require_exp": False}, "GQLNOTIFY_JWT_REQUIRE_EXP is off"),
    ],
)
def test_bounds_that_would_forget_a_revocation_before_its_token_are_refused(
    options: dict[str, Any], why: str
) -> None:
    per_topic = {"gqlnotify.*": Bounds(seconds=3600)}
    with pytest.raises(ValidationError, match=why):
        Settings(history_per_topic=per_topic, **options)


def test_a_password_in_a_url_is_not_printed() -> None:
    settings = Settings(broker_url="redis://:hunter2@host")

    assert "hunter2" not in f"{settings} {settings!r}"


def test_bounds_that_are_no_json_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="history_per_topic"):
        retention(monkeypatch, "{prices.*: {length: 1}}")


@pytest.mark.parametrize(
    ("per_topic", "where"),
    [
        ('{"prices.*": {"length": 0}}', ("prices.*", "length")),
        ('{"prices.*": {"seconds": -1}}', ("prices.*", "seconds")),
        ('{"prices.*": {"length": 1.5}}', ("prices.*", "length")),
        ('{"prices.*": {"lenght": 1}}', ("prices.*", "lenght")),
        ('{"prices.*": 7}', ("prices.*",)),
        ("[]", ()),
        ("7", ()),
    ],
)
def test_bounds_that_make_no_sense_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, per_topic: str, where: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as refusal:
        retention(monkeypatch, per_topic)
    assert refusal.value.errors()[0]["loc"] == ("history_per_topic", *where)


def test_nothing_changes_the_limits_of_the_topics_through_which_processes_ask_each_other() -> None:
    changed = Settings(history_per_topic={"gqlnotify.*": Bounds(length=7)}).retention

    # Or a process that was killed would be reported as silent for days.
    assert changed.of(HELLOS) == Settings().retention.of(HELLOS)
    assert changed.of(HELLOS).seconds == 60
    assert changed.of(f"{SURVEYS}requests").length == 1
