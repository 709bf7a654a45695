"""The viewer of the running operation, and the viewer's rights."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from gqlnotify.auth.principal import Action, Principal, may
from gqlnotify.errors import Forbidden, NoViewer, Unauthenticated
from gqlnotify.event import is_reserved

May = Callable[[Principal, Action, str], bool | Awaitable[bool]]
"""A hook: whether the principal has the right to the action on the topic of that name."""

_ALWAYS_NEW = {"exp", "iat", "nbf", "jti", "auth_time", "topics"}


@dataclass(frozen=True)
class Viewer:
    """A principal and the decision that applies to it, for as long as an operation runs."""

    principal: Principal
    may: May = may


class _Everybody:
    """In place of a viewer where one execution is for all of them."""


_UNKNOWN = object()
_viewer: ContextVar[Viewer | _Everybody | None] = ContextVar("gqlnotify_viewer", default=None)


@contextmanager
def viewing(viewer: Viewer | None) -> Iterator[None]:
    """Set `viewer` as the current viewer inside the block."""
    token = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(token)


def view_as(viewer: Viewer | None) -> None:
    """Set `viewer` for the rest of the running task, which runs a single operation."""
    _viewer.set(viewer)


def view_as_everybody() -> None:
    """Let the rest of the running context have no viewer, and raise where one is asked for."""
    _viewer.set(_Everybody())


def current_viewer() -> Viewer | None:
    """Return the viewer of the running operation; None outside one or where no token is asked.

    Raises:
        NoViewer: the execution is shared by several viewers.
    """
    viewer = _viewer.get()
    if isinstance(viewer, _Everybody):
        raise NoViewer
    return viewer


def knows_its_viewer() -> bool:
    """Return whether the running thread knows its viewer, or knows that it has none.

    It does if it got a copy of the context in which it was started, as by `asyncio.to_thread` and
    not by `run_in_executor`. Without one, a thread that a resolver started looks like one of the
    application's own.
    """
    return _viewer.get(_UNKNOWN) is not _UNKNOWN or _is_anyio_worker()


def _is_anyio_worker() -> bool:
    # Its threads, in which FastAPI runs plain functions, always get a copy.
    from anyio import from_thread  # noqa: PLC0415 - processes that only publish don't need it

    try:
        from_thread.check_cancelled()
    except RuntimeError:
        return False
    except asyncio.CancelledError:
        return True
    return True


def current_principal() -> Principal:
    """Return the principal of the running operation.

    Raises:
        Unauthenticated: outside an operation, or where no token is asked for.
        NoViewer: the execution is shared by several viewers.
    """
    viewer = current_viewer()
    if viewer is None:
        raise Unauthenticated("This needs a token, and the operation runs without one")
    return viewer.principal


async def authorize(action: Action, topic: str) -> None:
    """Check the running viewer's right. Code that runs for no viewer may do anything.

    Raises:
        Forbidden: the viewer has no such right.
        NoViewer: the execution is shared by several viewers.
    """
    await check_right(current_viewer(), action, topic)


async def check_right(viewer: Viewer | None, action: Action, *topics: str) -> None:
    """Check that `viewer` has the right to `action` on at least one of `topics`.

    No viewer has a right to a reserved topic, whatever the token or the application says.

    Raises:
        Forbidden: on none of them, or one is reserved; the message names the first.
    """
    if viewer is None:
        return
    if not any(is_reserved(topic) for topic in topics):
        for topic in topics:
            allowed = viewer.may(viewer.principal, action, topic)
            if await allowed if isawaitable(allowed) else allowed:
                return
    raise Forbidden(f"This token has no right to {action} {topics[0]!r}")


def renewed(current: Viewer, fresh: Viewer) -> Viewer:
    """Return `fresh`, which may take the place of `current` on a connection that goes on.

    Operations that run keep the right that they were given, so no right may be missing now.

    Raises:
        Forbidden: the fresh token is of another subject, or has fewer rights.
    """
    old, new = current.principal, fresh.principal
    if new.subject != old.subject:
        raise Forbidden("A connection can only be renewed by a token of the same subject")
    if not (set(old.subscribe) <= set(new.subscribe) and set(old.publish) <= set(new.publish)):
        raise Forbidden("This token has fewer rights; come back with it on a new connection")
    if _other_claims(new) != _other_claims(old):
        raise Forbidden("This token has other claims; come back with it on a new connection")
    return fresh


def _other_claims(principal: Principal) -> dict[str, Any]:
    # An application's own decision may rest on any of them.
    return {k: v for k, v in principal.claims.items() if k not in _ALWAYS_NEW}
