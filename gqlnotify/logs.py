"""`gqlnotify.logs.Sight`, for the logging configuration of an application."""

from gqlnotify.observability.logs import Sight

__all__ = ["Sight"]
