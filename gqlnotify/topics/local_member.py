"""Who counts as present while an operation runs."""

from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_hex
from typing import Self

from gqlnotify.auth import Viewer

_NAME_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class LocalMember:
    """A subject on one connection. Several operations of a connection count as one."""

    subject: str
    connection: Hashable = field(default_factory=object)

    @classmethod
    def of(cls, viewer: Viewer | None, session: str | None = None) -> Self:
        """Return who a new connection makes present.

        Args:
            viewer: the viewer, if the server requires tokens.
            session: the anonymous session of the browser, if it has one. Only a hash of it is
                shown, because the session itself is a secret of that browser.
        """
        if viewer is not None:
            return cls(viewer.principal.subject)
        name = token_hex() if session is None else sha256(session.encode()).hexdigest()
        return cls(f"anonymous-{name[:_NAME_CHARACTERS]}")


# It refers to no connection: tasks that outlive an operation keep its context.
_member: ContextVar[LocalMember | None] = ContextVar("gqlnotify_member", default=None)


def join_as(member: LocalMember | None) -> None:
    """Set who is present for the rest of the current task, which runs only one operation."""
    _member.set(member)


def current_member() -> LocalMember | None:
    """Return who is present while this operation runs; None outside of one."""
    return _member.get()
