"""What happens at the worst moment: right after Redis has executed a certain command."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gqlnotify.brokers.redis import scripts
from tests.simulation.world import SimulatedLoop, World

if TYPE_CHECKING:
    from tests.simulation.redis_link import RedisLink

SUBSCRIBE = "SUBSCRIBE"
COMMANDS = (
    SUBSCRIBE,
    *(
        script.sha
        for script in (
            scripts.HEAD,
            scripts.READ,
            scripts.CLAIM_POSITIONS,
            scripts.SAVE_POSITIONS,
            scripts.PUBLISH,
        )
    ),
)
_DELAY = (0, 5e-3)


@dataclass
class Ambush:
    """Waits for a command.

    Attributes:
        command: One of `COMMANDS`.
        strike: What to do then. It gets the link of the process that sent the command.
        left: How often it still strikes.
        until: When it gives up.
    """

    command: str
    strike: "Callable[[RedisLink], None]"
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

    def executed(self, command: str, link: "RedisLink") -> None:
        """Have those strike that have waited for this command."""
        now = self._loop.time()
        self._waiting = [each for each in self._waiting if each.left and each.until > now]
        for each in self._waiting:
            if each.command == command:
                each.left -= 1
                self._loop.later(self._world.random.uniform(*_DELAY), each.strike, link)
