"""What every line of the log says, and the configuration that `gqlnotify serve` gives to uvicorn.

An application that mounts the router keeps its own configuration. It may put a
`ConnectionIdFilter` on its handlers, to see which connection a line is about.
"""

import logging
from contextvars import ContextVar
from typing import Any, Literal

connection_id: ContextVar[str | None] = ContextVar("gqlnotify_connection_id", default=None)


class ConnectionIdFilter(logging.Filter):
    """Names the connection that a line is about, and cuts the query off every path.

    A record gets `connection_id`, where there is one, and `origin`, the same as a text would begin
    with. A query string may hold secrets.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`. Every record passes."""
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


def log_config(log_format: Literal["text", "json"]) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes; everything goes to stderr, as one stream."""
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
        "root": {"handlers": ["default"], "level": "WARNING"},
        "loggers": {
            name: {"level": "INFO"} for name in ("gqlnotify", "schema", "uvicorn", "uvicorn.access")
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
    # What a record has for others: for formatters of texts, and for uvicorn's colours.
    "reserved_attrs": [*_STANDARD, "origin", "color_message"],
}
