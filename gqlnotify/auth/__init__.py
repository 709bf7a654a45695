"""Verifies tokens and checks the rights of their principals. Only this folder imports jose."""

from gqlnotify.auth.principal import Action, Principal, may, principal_from
from gqlnotify.auth.tokens import (
    MAX_TOKEN_LENGTH,
    Authenticate,
    KeySetVerifier,
    Rules,
    TokenVerifier,
    find_token,
    sign,
    too_short,
    verifier_from,
)
from gqlnotify.auth.viewer import (
    May,
    Viewer,
    authorize,
    check_right,
    current_principal,
    current_viewer,
    knows_its_viewer,
    renewed,
    view_as,
    view_as_everybody,
    viewing,
)

__all__ = [
    "MAX_TOKEN_LENGTH",
    "Action",
    "Authenticate",
    "KeySetVerifier",
    "May",
    "Principal",
    "Rules",
    "TokenVerifier",
    "Viewer",
    "authorize",
    "check_right",
    "current_principal",
    "current_viewer",
    "find_token",
    "knows_its_viewer",
    "may",
    "principal_from",
    "renewed",
    "sign",
    "too_short",
    "verifier_from",
    "view_as",
    "view_as_everybody",
    "viewing",
]
