"""The viewer of the running operation, and the viewer's rights."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from gqlnotify.auth.principal import ACTIONS, Action, Principal, may, patterns_of
from gqlnotify.errors import Forbidden, NoViewer, Unauthenticated
from gqlnotify.event import is_reserved

May = Callable[[Principal, Action, str], bool | Awaitable[bool]]
"""A hook that takes a principal, an action and the name of a topic.

It returns whether the principal has the right to the action on that topic."""

_DEEDS: Mapping[Action, str] = {
    "subscribe": "subscribe",
    "publish": "publish",
    "presence": "see the members of",
    "admin": "use",
}
_ALWAYS_NEW = {"exp", "iat", "nbf", "jti", "auth_time", "topics"}


@dataclass(frozen=True, slots=True)
class Viewer:
    """A principal, and the hook that decides its rights. An operation runs for a viewer."""

    principal: Principal
    may: May = may


class _Everybody:
    """Stands for the viewers of a shared execution."""


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
    """Set `viewer` for the rest of the current task, which runs only one operation."""
    _viewer.set(viewer)


def view_as_everybody() -> None:
    """Make `current_viewer` raise `NoViewer` in the rest of the current context."""
    _viewer.set(_Everybody())


def current_viewer() -> Viewer | None:
    """Return the viewer of the running operation.

    Returns None outside of an operation, and if the server does not ask for tokens.

    Raises:
        NoViewer: Several viewers share the execution.
    """
    viewer = _viewer.get()
    if isinstance(viewer, _Everybody):
        raise NoViewer
    return viewer


def knows_its_viewer() -> bool:
    """Return whether the current thread knows its viewer, or knows that it has none.

    A thread knows this if it has a copy of the context that started it. `asyncio.to_thread` copies
    the context, `run_in_executor` does not. Without a copy, a thread that a resolver started can't
    be told from the application's own threads, which run without a viewer.
    """
    return _viewer.get(_UNKNOWN) is not _UNKNOWN or _is_anyio_worker()


def _is_anyio_worker() -> bool:
    # FastAPI runs plain functions in anyio's worker threads, which always get a copy.
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
        Unauthenticated: No operation runs, or the server does not ask for tokens.
        NoViewer: Several viewers share the execution.
    """
    viewer = current_viewer()
    if viewer is None:
        raise Unauthenticated("This needs a token, but the operation runs without one")
    return viewer.principal


async def authorize(action: Action, topic: str) -> None:
    """Check the right of the current viewer. Code that runs without a viewer is not checked.

    Raises:
        Forbidden: The viewer does not have this right.
        NoViewer: Several viewers share the execution.
    """
    await check_right(current_viewer(), action, topic)


async def check_right(viewer: Viewer | None, action: Action, *topics: str) -> None:
    """Check that `viewer` has the right to `action` on at least one of `topics`.

    No viewer has a right to a reserved topic, even if the token or the application grants it.

    Raises:
        Forbidden: The viewer has the right to none of them, or one is reserved. The message names
            the first topic.
    """
    if viewer is None:
        return
    if not any(is_reserved(topic) for topic in topics):
        for topic in topics:
            allowed = viewer.may(viewer.principal, action, topic)
            if await allowed if isawaitable(allowed) else allowed:
                return
    raise Forbidden(f"This token has no right to {_DEEDS[action]} {topics[0]!r}")


def renewed(current: Viewer, fresh: Viewer) -> Viewer:
    """Return `fresh` if it may replace `current` on an open connection.

    Running operations keep the rights that they started with, so the fresh token must have at least
    these.

    Raises:
        Forbidden: The fresh token has another subject, fewer rights or other claims.
    """
    old, new = current.principal, fresh.principal
    if new.subject != old.subject:
        raise Forbidden("This token has another subject: open a new connection with it")
    if any(set(patterns_of(old, each)) - set(patterns_of(new, each)) for each in ACTIONS):
        raise Forbidden("This token has fewer rights: open a new connection with it")
    if _other_claims(new) != _other_claims(old):
        raise Forbidden("This token has other claims: open a new connection with it")
    return fresh


def _other_claims(principal: Principal) -> dict[str, Any]:
    # The application's `may` hook can depend on any of them.
    return {k: v for k, v in principal.claims.items() if k not in _ALWAYS_NEW}
