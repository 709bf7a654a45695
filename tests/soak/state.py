"""What all clients share: the server's address, tokens, published events and problems."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from jose import jwt

from tests.waiting import SCALE

SECRET = "a secret for the soak, of thirty-two bytes and more"
LARGE = "large"
TOPICS = (*(f"t{number}" for number in range(7)), LARGE)
PATIENCE = 60 * SCALE

NUMBERS = (
    "subscription($name: String!, $every: Int! = 1, $mine: Boolean! = false) "
    "{ numbers(name: $name, every: $every, mine: $mine) { number text } }"
)


def token(subject: str, *, seconds: float = 3600, secret: str = SECRET) -> str:
    """Return a token with the rights to read and write every topic."""
    rights = {"subscribe": ["numbers.*"], "publish": ["numbers.*"]}
    claims = {"sub": subject, "exp": int(time.time() + seconds), "topics": rights}
    return str(jwt.encode(claims, secret, algorithm="HS256"))


@dataclass
class State:
    """The state that all clients share."""

    port: int
    rng: random.Random
    published: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when no new visitors come."""
    last_events: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing is published any more."""
    tokens: list[str] = field(default_factory=lambda: [token(f"s{n}") for n in range(50)])

    @property
    def token(self) -> str:
        """Return a valid token of a random subject."""
        return self.rng.choice(self.tokens)

    def topic(self) -> str:
        """Choose a topic; rarely the one of large events."""
        return LARGE if self.rng.random() < 0.03 else self.rng.choice(TOPICS[:-1])

    def note_problem(self, what: str) -> None:
        """Note a problem."""
        self.problems.append(what)

    async def pause(self, shortest: float, longest: float) -> None:
        """Wait for some time, or until the end of the run."""
        try:
            async with asyncio.timeout(self.rng.uniform(shortest, longest)):
                await self.closing.wait()
        except TimeoutError:
            pass

    async def wait_for_end(self, who: str, tasks: "Sequence[asyncio.Task[None]]") -> None:
        """Wait until all of these have ended; note those that have not."""
        done, late = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if late:
            self.note_problem(f"{len(late)} {who} did not end")
        for task in done:
            if error := task.exception():
                self.note_problem(f"one of the {who} failed: {error!r}")
