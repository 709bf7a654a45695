"""The state that our router has in addition to Strawberry's, in one object.

The router keeps it in one attribute, `_gqlnotify`. So a subclass may use any other name.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from strawberry import Schema

from gqlnotify.auth import Viewer
from gqlnotify.connections.access import Access
from gqlnotify.connections.reservations import Reservations
from gqlnotify.connections.subprotocol import SubprotocolRefusals
from gqlnotify.execution import Cache, Executions
from gqlnotify.execution.fingerprint import Same

MAX_SCHEMAS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterState(Access):
    """The access of one router, and what executes its operations."""

    subprotocols: SubprotocolRefusals
    reservations: Reservations
    make_executions: Callable[[Schema], Executions]
    # False if a subclass overrides `run`: it may wait for the end of the call.
    detachable: bool
    # Whether clients resume without a cursor.
    auto_resume: bool
    _executions: Cache[Same, Executions] = field(default_factory=lambda: Cache(MAX_SCHEMAS))

    def executions(self, schema: Schema) -> Executions:
        """Return the executions of `schema`, which an application may replace at any time."""
        known = self._executions.get(Same(schema))
        if known is None:
            known = self.make_executions(schema)
            self._executions.put(Same(schema), known, 1)
        return known


def asker_of(viewer: Viewer | None, client: Hashable) -> Hashable:
    """Return the key by which unknown documents take turns: the subject or, without one, `client`.

    `client` is the peer's address and port.
    """
    return client if viewer is None else viewer.principal.subject
