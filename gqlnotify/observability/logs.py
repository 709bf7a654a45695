"""The filter for log lines, and the logging configuration that `gqlnotify serve` uses.

An application that mounts the router keeps its own logging configuration. It can add a
`ConnectionIdFilter` to its handlers, to see which connection a line belongs to.
"""

import logging
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

from typing_extensions import override

from gqlnotify.settings import LogFormat, LogLevel

connection_id: ContextVar[str | None] = ContextVar("gqlnotify_connection_id", default=None)


class ConnectionIdFilter(logging.Filter):
    """Adds the connection's id to log records, and removes query strings from uvicorn's paths.

    A record of a connection gets `connection_id`. Every record gets `origin`, a prefix for text:
    the id in brackets, or an empty string. A query string may contain a token.
    """

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Add the connection to `record`. Every record passes."""
        current = getattr(record, "connection_id", None) or connection_id.get()
        record.origin = f"[{current}] " if current else ""
        if current:
            record.connection_id = current
        if record.name.startswith("uvicorn") and isinstance(record.args, tuple):
            record.args = tuple(_without_query(argument) for argument in record.args)
        return True


def _without_query(argument: object) -> object:
    is_path = isinstance(argument, str) and argument.startswith("/")
    return argument.partition("?")[0] if is_path and isinstance(argument, str) else argument


class QueryTokenFilter(logging.Filter):
    """Removes query strings with a token from the log records of servers."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Change the arguments of `record`. Every record passes."""
        if isinstance(record.args, tuple):
            record.args = tuple(_without_token(each) for each in record.args)
        return True


def hide_query_tokens() -> None:
    """Keep tokens in addresses out of the logs of uvicorn, however its logging is configured."""
    for name in ("uvicorn.access", "uvicorn.error"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, QueryTokenFilter) for each in logger.filters):
            logger.addFilter(QueryTokenFilter())


def _without_token(argument: object) -> object:
    # Decoded first, because a parameter's name may be percent-encoded too.
    if isinstance(argument, str) and "token=" in unquote(argument):
        return argument.partition("?")[0]
    return argument


def log_config(log_format: LogFormat, log_level: LogLevel) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig` that writes all lines to stderr.

    Other loggers than ours and uvicorn's begin at the level WARNING.
    """
    level = log_level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"sight": {"()": ConnectionIdFilter}},
        "formatters": {"default": _JSON if log_format == "json" else _TEXT},
        "handlers": {
            "default": {
                "class": "logging.StreamHandler",
                "formatter": "default",
                "filters": ["sight"],
            }
        },
        "root": {"handlers": ["default"], "level": "ERROR" if level == "ERROR" else "WARNING"},
        "loggers": {
            name: {"level": level} for name in ("gqlnotify", "schema", "uvicorn", "uvicorn.access")
        },
    }


_STANDARD = [*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"]
_TEXT = {
    "()": "uvicorn.logging.DefaultFormatter",
    "fmt": "%(levelprefix)s %(origin)s%(message)s",
}
_JSON = {
    "()": "pythonjsonlogger.json.JsonFormatter",
    "fmt": "%(levelname)s %(name)s %(message)s",
    "timestamp": "time",
    "rename_fields": {"levelname": "level", "name": "logger"},
    # Attributes that only serve the text format: `origin`, and uvicorn's colours.
    "reserved_attrs": [*_STANDARD, "origin", "color_message"],
}
