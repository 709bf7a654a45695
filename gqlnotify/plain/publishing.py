"""Publishes what the client of a plain WebSocket sends."""

from collections.abc import Awaitable
from typing import Any, Protocol

from gqlnotify.auth import Viewer, check_right, viewing
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.errors import Forbidden
from gqlnotify.event import Cursor
from gqlnotify.observability import metrics
from gqlnotify.plain import messages, refusals
from gqlnotify.websocket.primitives import LightEvent


class Publish(Protocol):
    """Publishes what a client sends, and returns the cursor of the event."""

    def __call__(self, topic: str, data: Any, author: str, /) -> Awaitable[Cursor]:
        """Publish.

        Args:
            topic: the name of the topic, to which the client may publish.
            data: JSON that the client sent, or `{"$binary": "<base64>"}` for a binary message.
            author: the subject of the client's token.

        Raises:
            NotifyError: the message is refused. The client gets the error.
        """


class Publishing:
    """Publishes the messages of one socket, one after the other.

    Args:
        publish: publishes.
        topic: the name of the socket's topic.
        only_json: whether a text must be JSON.
    """

    def __init__(self, publish: Publish, topic: str, *, only_json: bool) -> None:
        self.idle = LightEvent(is_open=True)
        """Open while no message is being published."""
        self._publish = publish
        self._topic = topic
        self._only_json = only_json

    async def answer(self, message: str | bytes, viewer: Viewer | None) -> str:
        """Publish a message of `viewer`, and return the answer to it."""
        try:
            with only_own_cancellation():
                return messages.published(await self._published(message, viewer))
        except Exception as error:
            return _refused(error)

    async def _published(self, message: str | bytes, viewer: Viewer | None) -> Cursor:
        if viewer is None:
            raise Forbidden("This server requires no tokens, so clients may not publish here")
        data = messages.parse(message, only_json=self._only_json)
        with viewing(viewer):
            await check_right(viewer, "publish", self._topic)
            return await self._publish(self._topic, data, viewer.principal.subject)


def _refused(error: Exception) -> str:
    # It may be `error` itself: a variable of the function that has caught it would be a cycle.
    refused = refusals.told(error)
    metrics.refused(refused.code)
    return messages.refused(refused)
