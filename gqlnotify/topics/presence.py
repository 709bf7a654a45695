"""What an application asks of presence: its checks, and the stream of the members of a topic."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from gqlnotify.auth import Viewer, check_right
from gqlnotify.brokers.presence import Member, PresenceEvent, Present, decode_event, presence_topic
from gqlnotify.codec.codec import Unfit, plain_json
from gqlnotify.errors import BadUserInput, InternalError
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.topics.live_list import LiveList, Snapshot
from gqlnotify.topics.projection import Projection

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


@dataclass(frozen=True, slots=True)
class _Everybody(Snapshot[Member]):
    """The snapshot of the members."""

    present: Present


class PresenceStream(LiveList[Present | PresenceEvent]):
    """The stream of who is present at a topic: a `Present`, then each change.

    It yields another `Present` where it has missed changes. A slow subscriber gets every change, so
    that `Joined` and `Left` of a subject alternate.
    """

    def __init__(
        self,
        manager: "TopicManager",
        topic: str,
        *,
        after: Cursor | str | None = None,
        viewer: Viewer | None = None,
    ) -> None:
        changes: Topic[Any] = Topic(presence_topic(topic), object)
        super().__init__(
            manager,
            changes,
            load=partial(_everybody, manager, topic),
            key=_subject,
            after=after,
            viewer=viewer,
        )
        self.projection = Projection(changes, None, _shown)
        self.subscriber = self._new_subscriber()
        self._topic = topic

    @override
    async def start(self, *, or_live: bool = False) -> None:
        """Check the viewer's right to see the members, and follow them. See `LiveList.start`."""
        has_started = self.subscriber.started
        await super().start(or_live=or_live)
        # Not again for each value: the topics may have been closed since.
        if not has_started and not self.subscriber.closed:
            self.manager.local_presence.follow(self._topic)

    @override
    async def _check_right(self, viewer: Viewer | None) -> None:
        await check_right(viewer, "presence", self._topic)


async def _everybody(manager: "TopicManager", topic: str) -> Snapshot[Member]:
    present = await manager.local_presence.present(topic)
    return _Everybody(list(present.members), present.cursor, present)


def _subject(value: Any) -> str:
    return decode_event(value).member.subject


def _shown(value: Any, _event: Event) -> Present | PresenceEvent:
    return value.present if isinstance(value, _Everybody) else decode_event(value)
