"""`gqlnotify.logs.ConnectionIdFilter`, or `Sight`, for the logging of an application."""

from gqlnotify.observability.logs import ConnectionIdFilter

Sight = ConnectionIdFilter

__all__ = ["ConnectionIdFilter", "Sight"]
