"""A room as clients query it."""

from collections.abc import Sequence

import strawberry

from schema.chat import commands
from schema.chat.types import Message, People
from schema.context import Info
from schema.types import documented, given


@documented
@strawberry.type
class Room:
    """A room, its messages and who is there. Every name is a room."""

    name: str
    event_cursor: str = strawberry.field(
        description="Pass it to messages as after, to get all messages since this answer."
    )

    @strawberry.field
    async def messages(
        self, info: Info, last: int = 50, before: strawberry.ID | None = strawberry.UNSET
    ) -> Sequence[Message]:
        """The newest messages, oldest first, at most 200. A room keeps its newest 1 000.

        With before, the newest ones before that message.
        """
        return await commands.messages(info.context, self.name, last=last, before=given(before))

    @strawberry.field
    async def people(self, info: Info) -> People:
        """Who is in the room. Requires the right to the presence of `rooms.<room>`."""
        return await commands.people(info.context, self.name)
