"""The errors of the task service. `NotifyError` carries their code and status to the client."""

from gqlnotify import errors


class NotFound(errors.NotifyError):
    """The object that an argument names does not exist."""

    code = "NOT_FOUND"
    http_status = 404


class Conflict(errors.NotifyError):
    """Another client has changed the object in the meantime."""

    code = "CONFLICT"
    http_status = 409
