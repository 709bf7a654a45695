"""What happens at the worst moment: right after Redis has executed a certain command."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from gqlnotify.brokers.redis import scripts
from tests.simulation.history import room_of
from tests.simulation.world import SimulatedLoop, World

if TYPE_CHECKING:
    from tests.simulation.redis_link import RedisLink

# Most replies are still on their way then.
_DELAYS = (0, 0, 5e-3)


class Aim(Enum):
    """The commands that an ambush can wait for."""

    SUBSCRIBE = "SUBSCRIBE"
    HEAD = scripts.HEAD.sha
    READ = scripts.READ.sha
    CLAIM = scripts.CLAIM_POSITIONS.sha
    SAVE = scripts.SAVE_POSITIONS.sha
    PUBLISH = scripts.PUBLISH.sha


AIMS = tuple(Aim)


@dataclass
class Ambush:
    """Waits for a command.

    Attributes:
        aim: The command. If it is about a topic, it must be one of a room.
        strike: What to do then. It gets the link of the process that sent the command, and the
            name of the room, or "".
        left: How often it still strikes.
        until: When it gives up.
    """

    aim: Aim
    strike: "Callable[[RedisLink, str], None]"
    left: int
    until: float


class Ambushes:
    """All that wait."""

    def __init__(self, world: World, loop: SimulatedLoop) -> None:
        self._world, self._loop = world, loop
        self._waiting: list[Ambush] = []

    def add(self, ambush: Ambush) -> None:
        """Have it wait."""
        self._waiting.append(ambush)

    def clear(self) -> None:
        """End all."""
        self._waiting.clear()

    def executed(self, command: bytes, key: bytes, link: "RedisLink") -> None:
        """Have those strike that have waited for this command, a name or the hash of a script."""
        if not self._waiting:
            return
        now, name = self._loop.time(), room_of(key.decode())
        self._waiting = [each for each in self._waiting if each.left and each.until > now]
        for each in self._waiting:
            about_topics = each.aim not in {Aim.CLAIM, Aim.SAVE}
            if each.aim.value == command.decode() and (name or not about_topics):
                each.left -= 1
                self._loop.later(self._world.random.choice(_DELAYS), each.strike, link, name)
