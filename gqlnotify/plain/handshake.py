"""What a client asks for with the handshake: a subprotocol, a token and a position. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from gqlnotify.auth import find_token
from gqlnotify.errors import BadUserInput, Unauthenticated
from gqlnotify.plain.refusals import refusal

JSON = "gqlnotify.json"
BINARY = "gqlnotify.binary"
_BEARER = "bearer."
_SERVED = (JSON, BINARY)


@dataclass(frozen=True, slots=True)
class Handshake:
    """The handshake of a client.

    Attributes:
        subprotocol: the subprotocol to speak, the first of ours that the client offers; or None.
        others: whether the client offers subprotocols, and all are unknown.
        token: the token, or None.
        has_query_token: whether the address contains a token, which servers write into their logs.
        after: the cursor to resume after, or None.
    """

    subprotocol: str | None = None
    others: bool = False
    token: str | None = field(default=None, repr=False)
    has_query_token: bool = False
    after: str | None = None

    @classmethod
    def of(
        cls, headers: Mapping[str, str], query: Mapping[str, str], offered: Sequence[str]
    ) -> Self:
        """Read the handshake. A token in a subprotocol precedes the header `Authorization`.

        A browser may add that header by itself, with a name and a password.
        """
        tokens = [each[len(_BEARER) :] for each in offered if each.startswith(_BEARER)]
        known = [each for each in offered if each in _SERVED]
        found = find_token({"authorization": headers.get("authorization")})
        return cls(
            subprotocol=known[0] if known else None,
            others=not known and len(offered) > len(tokens),
            token=next(filter(None, tokens), None) or found or query.get("token") or None,
            has_query_token="token" in query,
            after=query.get("after") or None,
        )

    def check(self, *, query_token: bool) -> None:
        """Refuse what the server does not support.

        Args:
            query_token: whether a token in the address is allowed.

        Raises:
            ConnectionClosed: the address contains a token, which is not allowed, or the client
                offers only unknown subprotocols.
        """
        if self.has_query_token and not query_token:
            raise refusal(
                Unauthenticated.code,
                "?token= is off here. Use Authorization, or the subprotocol bearer.<token>",
            )
        if self.others:
            raise refusal(BadUserInput.code, f"Offer the subprotocol {JSON} or {BINARY}, or none")
