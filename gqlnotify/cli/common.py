"""What the commands share: their settings, and how they fail."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from gqlnotify.errors import BrokerUnavailable, CursorExpired, NotifyError
from gqlnotify.settings import PREFIX, Settings, did_you_mean, unknown_variables


class _CommandSettings(Settings):
    """The settings of a command. It reads them before, or without, importing the application.

    Only the application knows which other variables it uses, so these settings warn of none.
    """

    warns_of_unknown_variables = False


def command_settings() -> Settings:
    """Return the settings, or fail if a variable is misspelt or invalid."""
    refuse_misspelt_variables()
    return read_settings()


def refuse_misspelt_variables() -> None:
    """Fail if a variable resembles a setting and is none."""
    for name, nearest in unknown_variables().items():
        # A name that resembles no setting may belong to other software: Kubernetes sets
        # GQLNOTIFY_PORT for a service called gqlnotify.
        if nearest is not None:
            fail(f"{name} is not a setting{did_you_mean(nearest)}")


def read_settings() -> Settings:
    """Return the settings from the environment, or fail if one is invalid."""
    try:
        return _CommandSettings()
    except SettingsError as error:
        fail(f"{error}: {error.__cause__}")
    except ValidationError as error:
        refuse_invalid(invalid_variables(error))


def invalid_variables(error: ValidationError) -> dict[str, str]:
    """Return the variables that a settings class refuses, and why."""
    # A validator of the whole class gives no name.
    return {
        PREFIX + "".join(map(str, each["loc"][:1])).upper(): each["msg"] for each in error.errors()
    }


def refuse_invalid(variables: Mapping[str, str]) -> NoReturn:
    """Fail because these variables are invalid, for these reasons."""
    fail("; ".join(f"{name}: {reason}" for name, reason in variables.items()))


@contextmanager
def failures_reported() -> Iterator[None]:
    """Turn the errors of the block into messages and exit codes."""
    try:
        yield
    except CursorExpired as error:
        fail(error.message, status=3)
    except BrokerUnavailable as error:
        fail(error.reason, status=1)
    except (NotifyError, ValueError) as error:
        fail(str(error))


def printable(text: str) -> str:
    """Return `text` with escapes in place of what could control a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fail(message: str, *, status: int = 2) -> NoReturn:
    """Print why the command ends, and end it with this exit code."""
    typer.echo(f"gqlnotify: {message}", err=True)
    raise typer.Exit(status)
