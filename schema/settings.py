"""The settings of the task service: gqlnotify's own, and those of its database and outbox."""

from pydantic import Field

from gqlnotify import Settings


class TaskSettings(Settings):
    """The library's settings and the task service's own, all read from `GQLNOTIFY_*`.

    `gqlnotify serve` knows the names of this class once it has imported the application.

    Raises:
        ValueError: a value is invalid, or an argument is not a setting.
    """

    database_url: str = Field(
        default="sqlite:///gqlnotify.db",
        # It may contain a password.
        repr=False,
        description="The database of the tasks",
    )
    outbox_max_lag: float = Field(
        default=30,
        gt=0,
        description="Age of an unpublished event from which the service is not ready",
    )
