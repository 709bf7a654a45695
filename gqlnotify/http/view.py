"""Strawberry's router, with `allowed_origins` for the versions of Strawberry that lack it."""

from collections.abc import Sequence
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket
from strawberry.fastapi import GraphQLRouter
from strawberry.fastapi.context import CustomContext
from typing_extensions import TypeVar, override

from gqlnotify.connections.origin import AllowedOrigins

Context = TypeVar("Context", default=CustomContext)
RootValue = TypeVar("RootValue", default=None)

_OPTION = Parameter("allowed_origins", Parameter.KEYWORD_ONLY, default=())
_POLICY_VIOLATION = 1008


class WithOrigins(GraphQLRouter[Context, RootValue]):
    """Checks whether the origin of a page is one of `allowed_origins`.

    Raises:
        ValueError: one of them is not an origin.
    """

    def __init__(self, *args: Any, allowed_origins: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allowed_origins: Any = AllowedOrigins(allowed_origins)

    @override
    def is_websocket_origin_allowed(self, request: WebSocket, origin: str) -> bool:
        """Return whether a page of `origin` may open a socket."""
        return origin in self.allowed_origins

    @override
    async def reject_websocket(self, request: WebSocket) -> WebSocket:
        """Refuse the handshake. The server responds with 403."""
        await request.close(_POLICY_VIOLATION)
        return request


def _with_option(known: Signature) -> Signature:
    *others, keywords = known.parameters.values()
    return known.replace(parameters=[*others, _OPTION, keywords])


if TYPE_CHECKING or hasattr(GraphQLRouter, "is_websocket_origin_allowed"):
    View = GraphQLRouter
else:
    View = WithOrigins
    # Our router reads the default arguments from the signature.
    View.__init__.__signature__ = _with_option(signature(GraphQLRouter.__init__))
