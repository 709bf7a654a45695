"""The settings that the routers of an event loop pass to the server under them."""

from functools import cache

from gqlnotify.event_loop import OnePerLoop
from gqlnotify.settings import Settings


class ServerSettings(OnePerLoop):
    """The settings of the routers that are served in one event loop.

    A server gets no settings of its own. Before a router has added its settings, those of the
    environment apply. If routers have different times, the longest one applies, so that no
    router's connections end too early.
    """

    def __init__(self) -> None:
        self._settings: list[Settings] = []

    def add(self, settings: Settings) -> None:
        """Add the settings of a router. A router may do so for each request."""
        # By identity: comparing all fields of two pydantic models for each request would be slow.
        if all(known is not settings for known in self._settings):
            self._settings.append(settings)

    @property
    def handshake_timeout(self) -> float:
        """Seconds that a connection may take to send a request."""
        return max(settings.handshake_timeout for settings in self._in_use)

    @property
    def send_timeout(self) -> float:
        """Seconds after which a peer that reads none of its pending data is dropped."""
        return max(settings.send_timeout for settings in self._in_use)

    @property
    def drain_window(self) -> float:
        """Seconds that a stopping server takes to close its sockets."""
        return max(settings.drain_window for settings in self._in_use)

    @property
    def _in_use(self) -> list[Settings]:
        return self._settings or [_of_the_environment()]


@cache
def _of_the_environment() -> Settings:
    return Settings()
