"""The figures of all processes, as clients of the console get them."""

from typing import Self

import strawberry

from gqlnotify.console import figures
from gqlnotify.console.asking import Asked
from gqlnotify.console.figures import ByProcess
from gqlnotify.console.types import Answered, Process, described, documented, unanswered
from gqlnotify.topics import survey


@documented
@strawberry.type
class ProcessLoad:
    """What one process has open now."""

    process: Process
    connections: int = described("Open WebSockets.")
    streams: int = described("Open streams over HTTP.")
    operations: int = described("Running operations on WebSockets.")
    topics: int = described("Topics that it listens to.")
    held_bytes: float = described("Bytes that wait for the peers of its WebSockets.")
    deliveries: float = described("Results that it has sent since its start.")

    @classmethod
    def of(cls, answer: survey.Answer) -> Self:
        """Return what one process answered."""
        value = answer.value
        return cls(
            process=Process.of(answer.process),
            connections=value["connections"],
            streams=value["streams"],
            operations=value["operations"],
            topics=value["topics"],
            held_bytes=value["heldBytes"],
            deliveries=value["deliveries"],
        )


@documented
@strawberry.type
class Refusal:
    """Refused requests and closed connections of one kind."""

    reason: str = described("The code of the error, in lower case.")
    count: float


@documented
@strawberry.type
class Rates:
    """What happened between two looks. Only a subscription has it, from its second value on."""

    deliveries: float = described("Results sent in a second.")
    executions: float = described("Executions of events in a second.")
    executions_saved: float = described(
        "Deliveries in a second that shared the execution of another subscription."
    )
    published: float = described("Events that the processes published in a second.")
    lag_seconds: float | None = described(
        "The mean time from the broker's receipt of an event to the write of its messages."
    )

    @classmethod
    def between(cls, before: ByProcess, now: ByProcess, seconds: float) -> Self:
        """Return what happened in `seconds`."""

        def rate(name: str) -> float:
            return figures.growth(before, now, name) / seconds

        return cls(
            deliveries=rate("deliveries"),
            executions=rate("executions"),
            executions_saved=rate("executionsSaved"),
            published=rate("published"),
            lag_seconds=figures.lag(before, now),
        )


@documented
@strawberry.type
class Overview(Answered):
    """The figures of all processes that answered."""

    processes: list[ProcessLoad]
    others: list[Process] = described("Processes without a router, such as workers.")
    connections: float = described("Open WebSockets.")
    streams: float = described("Open streams over HTTP.")
    operations: float = described("Running operations on WebSockets.")
    held_bytes: float = described("Bytes that wait for the peers of all WebSockets.")
    published: float = described("Events published since the processes started.")
    deliveries: float = described("Results sent since the processes started.")
    executions: float = described("Executions of events since the processes started.")
    executions_saved: float = described(
        "Deliveries that shared an execution, since the processes started."
    )
    gaps: float = described("Times that a history did not reach back far enough.")
    refusals: list[Refusal] = described("By reason, most frequent first.")
    rates: Rates | None = None

    @classmethod
    def of(cls, asked: Asked, now: ByProcess, rates: Rates | None = None) -> Self:
        """Return the sums over all processes."""
        return cls(
            processes=[ProcessLoad.of(each) for each in asked.answers],
            others=[Process.of(each) for each in asked.others],
            connections=figures.total(now, "connections"),
            streams=figures.total(now, "streams"),
            operations=figures.total(now, "operations"),
            held_bytes=figures.total(now, "heldBytes"),
            published=figures.total(now, "published"),
            deliveries=figures.total(now, "deliveries"),
            executions=figures.total(now, "executions"),
            executions_saved=figures.total(now, "executionsSaved"),
            gaps=figures.total(now, "gaps"),
            refusals=[
                Refusal(reason=reason, count=count) for reason, count in figures.refusals(now)
            ],
            rates=rates,
            **unanswered(asked),
        )
