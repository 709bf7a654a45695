"""What an application asks of presence: its checks, and the stream of a room."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from gqlnotify.auth import Viewer, check_right
from gqlnotify.brokers.presence import PresenceEvent, Present, decode_event, room_of
from gqlnotify.codec.codec import Unfit, plain_json
from gqlnotify.errors import BadUserInput, CursorExpired, InternalError
from gqlnotify.event import Event, Topic
from gqlnotify.topics.subscription import Subscription

if TYPE_CHECKING:
    from gqlnotify.topics.manager import TopicManager

MAX_STATE_BYTES = 1024


def require_presence(topic: Topic[Any]) -> str:
    """Return the name of a topic that has presence.

    Raises:
        InternalError: It has none.
        BadUserInput: It is a family of topics.
    """
    name = topic.concrete()
    if not topic.presence:
        raise InternalError(
            f"Topic {name!r} has no presence: declare it as Topic(..., presence=True)"
        )
    return name


def encode_state(state: Any) -> bytes:
    """Return a state as JSON.

    Raises:
        BadUserInput: It is not a JSON value, or too large.
    """
    try:
        encoded = plain_json(state)
    except Unfit as error:
        raise BadUserInput(f"A state is a JSON value, and this is not one: {error}") from None
    if len(encoded) > MAX_STATE_BYTES:
        raise BadUserInput(
            f"A state has at most {MAX_STATE_BYTES} bytes as JSON, and this one {len(encoded)}"
        )
    return encoded


async def changes_of(
    manager: "TopicManager", topic: str, viewer: Viewer | None
) -> AsyncGenerator[Present | PresenceEvent, None]:
    """Yield who is present at the topic, and then each change. See `TopicManager.presence`."""
    await check_right(viewer, "presence", topic)
    room: Topic[Any] = Topic(room_of(topic), object)
    while True:
        present = await manager.attendances.present(topic)
        yield present
        changes = Subscription(
            manager, room, after=present.cursor, viewer=viewer, members_of=topic
        ).map(_decoded)
        try:
            await changes.start()
            manager.attendances.follow(topic)
            async for event in changes:
                yield event
        except CursorExpired:
            continue
        return


def _decoded(value: Any, _event: Event) -> PresenceEvent:
    return decode_event(value)
