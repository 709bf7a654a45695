"""Adds the console to a router, for those who have the right `admin` on `console`."""

from collections.abc import Callable
from inspect import isawaitable
from typing import Any

from fastapi import APIRouter

from gqlnotify.auth import Authenticate, May, Principal, Viewer, check_right
from gqlnotify.connections.access import Access
from gqlnotify.console.asking import Console
from gqlnotify.console.page import page_router
from gqlnotify.console.schema import schema
from gqlnotify.settings import Settings
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.revocation import Revocations

RIGHT = "console"
DEFAULT_PATH = "/console"


def console_router(
    topics: TopicManager,
    *,
    settings: Settings,
    authenticate: Authenticate,
    may: May,
    make_router: Callable[..., APIRouter],
) -> APIRouter:
    """Return a router with the page at its own address, and the API at `/graphql` under it.

    Args:
        topics: the topics to show.
        settings: the limits of the API.
        authenticate: checks the token.
        may: decides who has the right.
        make_router: makes a `GraphQLRouter`.
    """
    console = Console(topics, Revocations(topics, settings))

    async def context() -> dict[str, Any]:
        return {"console": console}

    router = page_router()
    api = make_router(
        schema,
        graphql_ide=None,
        context_getter=context,
        topics=topics,
        settings=_settings(settings),
        authenticate=_admins_only(authenticate, may),
        may=may,
    )
    router.include_router(api, prefix="/graphql", include_in_schema=False)
    return router


def path_of(console: bool | str, access: Access) -> str:
    """Return the path of the console.

    Raises:
        ValueError: the router requires no tokens, or the path does not begin with a slash.
    """
    if access.authenticate is None:
        raise ValueError(
            "The console needs tokens: anyone could read and end everything. Set "
            "GQLNOTIFY_JWT_SECRET or GQLNOTIFY_JWKS_URL, or pass `authenticate`"
        )
    path = DEFAULT_PATH if console is True else str(console)
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"The path of the console begins with a slash, unlike {path!r}")
    return path


def _admins_only(authenticate: Authenticate, may: May) -> Authenticate:
    async def check(token: Any, connection: Any) -> Principal:
        decided = authenticate(token, connection)
        principal = await decided if isawaitable(decided) else decided
        await check_right(Viewer(principal, may), "admin", RIGHT)
        return principal

    return check


def _settings(settings: Settings) -> Settings:
    """Return the settings of the API. Its documents are not the application's."""
    fields = Settings.model_fields
    changes = {
        **{name: fields[name].default for name in fields if name.startswith("query_max_")},
        "auto_resume": False,
        "anonymous_sessions": False,
        "introspection": True,
        "only_persisted": False,
        "persisted_operations": None,
    }
    return settings.model_copy(update=changes)
