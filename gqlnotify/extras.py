"""The extras of this library, and the command that installs each of them."""

from collections.abc import Iterator
from contextlib import contextmanager

MODULES = {
    "server": {"pythonjsonlogger", "typer", "uvicorn", "websockets"},
    "metrics": {"prometheus_client"},
    "otel": {"opentelemetry"},
    "client": {"gql", "websockets"},
    "outbox": {"sqlalchemy"},
    "testing": {"pytest"},
}
"""The modules that each extra of `pyproject.toml` installs."""


class MissingExtra(ImportError):
    """The extra that a part of this library needs is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an extra: pip install "gqlnotify[{extra}]"')


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Return a context manager for imports from `extra`. `what` is the part that needs them.

    Raises:
        MissingExtra: The extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in MODULES[extra]:
            raise
        raise MissingExtra(what, extra) from error
