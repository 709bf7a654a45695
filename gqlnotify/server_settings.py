"""Settings that the routers of an event loop pass to their server."""

from functools import cache

from gqlnotify.event_loop import OnePerLoop
from gqlnotify.settings import Settings


class ServerSettings(OnePerLoop):
    """The settings of the routers that an event loop serves.

    A server has no settings of its own: until a router has told it any, those of the environment
    count. Where several routers differ, the longest time counts, so that none is cut short.
    """

    def __init__(self) -> None:
        self._settings: list[Settings] = []

    def add(self, settings: Settings) -> None:
        """Count the settings of a router; it says so each time that it is used."""
        if all(known is not settings for known in self._settings):
            self._settings.append(settings)

    @property
    def handshake_timeout(self) -> float:
        """How many seconds a request may take to come."""
        return max(settings.handshake_timeout for settings in self._in_use)

    @property
    def send_timeout(self) -> float:
        """Seconds after which a peer that reads none of its pending data is dropped."""
        return max(settings.send_timeout for settings in self._in_use)

    @property
    def drain_window(self) -> float:
        """Over how many seconds a stopping server closes its sockets."""
        return max(settings.drain_window for settings in self._in_use)

    @property
    def _in_use(self) -> list[Settings]:
        return self._settings or [_of_the_environment()]


@cache
def _of_the_environment() -> Settings:
    return Settings()
