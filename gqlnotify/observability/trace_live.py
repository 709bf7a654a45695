"""Follows a subject or a topic step by step, while somebody watches.

Nothing is recorded, and no code of a delivery runs, while no trace follows. A trace ends by itself
soon after the last question of its watcher.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from gqlnotify import clock
from gqlnotify.errors import BadUserInput
from gqlnotify.observability import logs
from gqlnotify.observability.trace_facts import Fact, Kind

FOLLOW_SECONDS = 5.0
"""How long a trace lasts without a further question."""
# Half a second apart, so many looks take less than a hundredth of a core. Measured: 10 us a step.
MAX_STEPS = 400
_OF_GROUPS = {Kind.EXECUTED, Kind.FILTERED}
MAX_TRACES = 20


class Trace:
    """The steps of one subject, or of one topic, that were not asked for yet.

    Args:
        subject: whom to follow; None for everybody.
        topic: where; None for everywhere.
    """

    def __init__(self, subject: str | None, topic: str | None) -> None:
        self.subject = subject
        self.topic = topic
        self.expires_at = 0.0
        self._steps: list[Fact] = []
        self._left_out = 0

    def add(self, step: Fact) -> None:
        """Add a step if it is about the subject and the topic. Without room, it is counted."""
        # What a group does concerns its members only, and it tells for whom it does it.
        of_others = self.subject is not None and step.subject is None and step.kind in _OF_GROUPS
        if not of_others and step.concerns(self.subject, self.topic):
            if len(self._steps) < MAX_STEPS:
                self._steps.append(step)
            else:
                self._left_out += 1

    def take(self) -> tuple[Sequence[Fact], int]:
        """Return the steps since the last call, and how many had to be left out."""
        steps, left_out = self._steps, self._left_out
        self._steps, self._left_out = [], 0
        return steps, left_out


class Followed(Protocol):
    """Tells its own steps while a trace follows it."""

    __slots__ = ()

    def unfollow(self) -> None:
        """Stop, because no trace follows any more."""


class Live:
    """The traces that follow now in this process.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, *, now: Callable[[], float] = clock.monotonic) -> None:
        self.on = False
        """Whether any trace follows. Others may set up their steps by this alone."""
        self._now = now
        self._traces: dict[str, Trace] = {}
        self.followed: dict[Followed, tuple[str, str]] = {}
        """What tells its own steps, with its subject and topic."""

    def is_new(self, name: str) -> bool:
        """Return whether no trace of this name follows."""
        return name not in self._traces

    def follow(self, name: str, subject: str | None, topic: str | None) -> Trace:
        """Begin the trace of this name, or go on with it for `FOLLOW_SECONDS`.

        Raises:
            BadUserInput: Too many traces follow.
        """
        self.expire()
        if name not in self._traces and len(self._traces) >= MAX_TRACES:
            raise BadUserInput(
                f"{MAX_TRACES} traces follow in this process already. End one, and try again"
            )
        trace = self._traces.setdefault(name, Trace(subject, topic))
        trace.expires_at = self._now() + FOLLOW_SECONDS
        self.on = True
        return trace

    def expire(self) -> None:
        """End the traces that were not asked for lately."""
        now = self._now()
        self._traces = {n: trace for n, trace in self._traces.items() if trace.expires_at > now}
        self.on = bool(self._traces)
        for one, (subject, topic) in list(self.followed.items()):
            if not self.follows(subject, topic):
                del self.followed[one]
                one.unfollow()

    def follows(self, subject: str | None, topic: str) -> bool:
        """Return whether a trace follows this subject by name, on this topic."""
        return subject is not None and any(
            trace.subject == subject and trace.topic in {None, topic}
            for trace in self._traces.values()
        )

    def add(self, step: Fact) -> None:
        """Add a step to the traces that it concerns."""
        for trace in self._traces.values():
            trace.add(step)

    def step(
        self,
        kind: Kind,
        *,
        topic: str | None,
        cursor: str | None = None,
        subject: str | None = None,
        connection: str | None = None,
        text: str = "",
    ) -> None:
        """Add a step that happens now. Call it only while `on`."""
        connection = connection or logs.connection_id.get()
        at = clock.now()
        self.add(Fact(at, kind, subject, topic, cursor, connection=connection, text=text))


live = Live()
"""The traces of this process."""
