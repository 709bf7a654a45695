"""Pings that name cursors. A pong that echoes one acknowledges the events up to these cursors.

"The optional payload field can be used to transfer additional details about the ping" and, for the
pong, "about the pong". Most clients answer with the payload of the ping. The others answer without
a payload, so their pongs belong to the oldest ping.
"""

from collections.abc import Mapping

from gqlnotify.event import Cursor
from gqlnotify.protocol.messages import Json

_MEMBER = "gqlnotify"
_MAX_UNANSWERED = 1000


class Pings:
    """The pings of one connection that were not answered yet."""

    __slots__ = ("_count", "_echoes", "_plain", "_trusts_bare_pongs", "_unanswered")

    def __init__(self) -> None:
        self._count = 0
        self._unanswered: list[tuple[int, dict[str, Cursor]]] = []
        self._plain = 0
        self._echoes = False
        self._trusts_bare_pongs = True

    @property
    def are_answered(self) -> bool:
        """Whether the client has answered every ping."""
        return not self._unanswered

    def ping(self, cursors: Mapping[str, Cursor]) -> Json:
        """Return the payload of the next ping. `cursors` has the position of each operation id."""
        self._count += 1
        if len(self._unanswered) >= _MAX_UNANSWERED:
            # Then a pong without a payload may mean a ping that is forgotten.
            del self._unanswered[0]
            self._trusts_bare_pongs = False
        self._unanswered.append((self._count, dict(cursors)))
        return {_MEMBER: {"ack": self._count, "cursors": cursors}}

    def plain_ping(self) -> None:
        """Note a ping without cursors. Its pong has no payload and acknowledges nothing."""
        self._plain += 1

    def pong(self, payload: Json | None) -> Mapping[str, Cursor]:
        """Return what a pong acknowledges. It is what our ping said, never what the pong says."""
        number = self._number(payload)
        acknowledged: dict[str, Cursor] = {}
        while self._unanswered and self._unanswered[0][0] <= number:
            acknowledged |= self._unanswered.pop(0)[1]
        return acknowledged

    def forget(self, id_: str) -> None:
        """Ignore what was said about an operation that has ended: its id may be used again."""
        for _, cursors in self._unanswered:
            cursors.pop(id_, None)

    def _number(self, payload: Json | None) -> int:
        """Return the number of the ping that a pong answers, or 0."""
        if payload is None:
            return self._oldest()
        ours = payload.get(_MEMBER)
        number = ours.get("ack") if isinstance(ours, dict) else None
        if type(number) is not int or number > self._count:
            return 0
        self._echoes = True
        return number

    def _oldest(self) -> int:
        if self._plain:
            self._plain -= 1
            return 0
        if not self._unanswered:
            # "The Pong message can be sent at any time": this client does so without a ping.
            self._trusts_bare_pongs = False
        if self._echoes or not self._trusts_bare_pongs:
            return 0
        return self._unanswered[0][0]
