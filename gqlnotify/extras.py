"""What a part of this library needs in addition, and the command that installs it."""

from collections.abc import Iterator
from contextlib import contextmanager

MODULES = {
    "server": {"pythonjsonlogger", "typer", "uvicorn", "websockets"},
    "metrics": {"prometheus_client"},
    "otel": {"opentelemetry"},
}
"""The modules that each extra of `pyproject.toml` installs."""


class MissingExtra(ImportError):
    """A part of this library is used without the extra that it needs."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an extra: pip install "gqlnotify[{extra}]"')


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Import inside what `extra` installs, for `what`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in MODULES[extra]:
            raise
        raise MissingExtra(what, extra) from error
