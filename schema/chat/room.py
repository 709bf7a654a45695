"""A room as clients query it."""

from collections.abc import Sequence

import strawberry

from schema.chat import commands
from schema.chat.types import Message
from schema.context import Info
from schema.types import documented, given


@documented
@strawberry.type
class Room:
    """A room and its messages. Every name is a room."""

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
