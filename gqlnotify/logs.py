"""The documented import path of `ConnectionIdFilter`, for the logging of an application.

`Sight` is its former name.
"""

from gqlnotify.observability.logs import ConnectionIdFilter

Sight = ConnectionIdFilter

__all__ = ["ConnectionIdFilter", "Sight"]
