"""What a seed is like: how fast its networks are, how much happens, and which limits are small.

A branch that is rare with the usual limits is taken often with small ones. And a race between two
messages happens often if one of them may take long. Most seeds have something of both.
"""

import random
from dataclasses import dataclass
from typing import Any, Self

from gqlnotify.execution import fan_out, group
from gqlnotify.server import websocket
from gqlnotify.topics import live_topic, resumptions
from gqlnotify.websocket import writer

Range = tuple[float, float]

LONG_HISTORY = 1000


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of one seed. Times are in seconds; a range has the least and the most.

    Attributes:
        redis_latency: How long a command or a reply takes.
        client_latency: How long data between a client and a process takes.
        publish_every: How long it takes until the next event of the usual ones.
        away: How long a client takes to reconnect.
        has_outbox: Whether some events go through an outbox.
        kinds: The kinds of faults that happen. The fewer there are, the more often each meets
            itself.
        most_faults: How many faults happen at most.
        settings: Changes to the settings of the processes.
        limits: Values for constants of the library, by module and name.
    """

    redis_latency: Range
    client_latency: Range
    publish_every: Range
    away: Range
    has_outbox: bool
    kinds: tuple[str, ...]
    most_faults: int
    settings: dict[str, Any]
    limits: dict[tuple[Any, str], Any]

    @classmethod
    def choose(cls, choices: random.Random, kinds: tuple[str, ...]) -> Self:
        """Choose conditions; the faults are some of `kinds`."""
        one_of = choices.choice
        return cls(
            redis_latency=one_of([(1e-4, 3e-3), (1e-4, 3e-3), (1e-4, 5e-2), (1e-3, 0.3)]),
            client_latency=one_of([(1e-4, 2e-2), (1e-4, 2e-2), (1e-3, 0.5)]),
            publish_every=one_of([(0.02, 0.6), (0.02, 0.6), (0.5, 5.0)]),
            away=one_of([(0.05, 1.5), (0.01, 0.1), (0.05, 12.0)]),
            has_outbox=one_of([True, False, False, False]),
            kinds=tuple(choices.sample(kinds, choices.randint(3, len(kinds)))),
            most_faults=one_of([8, 8, 16]),
            settings={
                "history_length": one_of([LONG_HISTORY, LONG_HISTORY, 40, 6]),
                "topic_linger": one_of([0, 0, 0, 1, 10]),
                "ack_interval": one_of([0.5, 0.5, 0.02]),
            },
            limits={
                (live_topic, "PAGE_SIZE"): one_of([128, 3]),
                (live_topic, "BUFFER_SIZE"): one_of([256, 8, 2]),
                (writer, "FULL_BYTES"): (full := one_of([64 * 1024, 64 * 1024, 300])),
                (websocket, "FULL_BYTES"): full,
                (group, "BATCH_BYTES"): one_of([64 * 1024, 200]),
                (fan_out, "SLICE_MEMBERS"): one_of([128, 1]),
                (resumptions, "_CHANGES_AT_ONCE"): one_of([200, 1]),
            },
        )

    def impose(self) -> None:
        """Set the limits."""
        for (module, name), value in self.limits.items():
            vars(module)[name] = value
