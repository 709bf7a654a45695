"""An outbox: events that are committed with the application's data, and published after that."""

from gqlnotify.extras import needs

with needs("outbox", "gqlnotify.outbox"):
    from gqlnotify.outbox.outbox import Lagging, Outbox
    from gqlnotify.outbox.table import outbox_table

__all__ = ["Lagging", "Outbox", "outbox_table"]
