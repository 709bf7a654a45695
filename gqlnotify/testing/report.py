"""What `chaos` has found, in words."""

from dataclasses import dataclass, field
from enum import Enum

from typing_extensions import override


class Kind(Enum):
    """What can go wrong with the events of a subscription."""

    LOST = "lost"
    REPEATED = "repeated"
    REORDERED = "out of order"
    LEAKED = "leaked to another viewer"
    FAILED = "failed"
    LEFT_OVER = "left over"


@dataclass(frozen=True)
class Problem:
    """One thing that went wrong.

    Attributes:
        kind: what kind of thing.
        operation: the name of the operation; empty if it is not known which one it was.
        viewer: whose events they were; empty if that does not matter.
        what: what happened.
        when: what was done to the application just before.
        look_at: where the cause probably is.
    """

    kind: Kind
    operation: str
    viewer: str
    what: str
    when: str
    look_at: str

    @property
    def cause(self) -> tuple[Kind, str, str]:
        """What problems of the same cause have in common."""
        return self.kind, self.operation, self.look_at

    @override
    def __str__(self) -> str:
        who = ", ".join(filter(None, [self.operation, self.viewer and f"as {self.viewer}"]))
        return (
            f"{self.kind.value.upper()}: {f'{who}: ' if who else ''}{self.what}\n"
            f"  when:    {self.when}\n"
            f"  look at: {self.look_at}"
        )


@dataclass
class Report:
    """The outcome of `chaos`. `str(report)` is a text to read."""

    steps: list[str] = field(default_factory=list)
    """What was done to the application, in order."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return not self.problems

    def check(self) -> None:
        """Fail the test if anything went wrong.

        Raises:
            AssertionError: the report, as a text.
        """
        __tracebackhide__ = True
        if self.problems:
            raise AssertionError(str(self))

    def add(self, problem: Problem) -> None:
        """Add a problem, unless one with the same cause is known."""
        if problem.cause not in {each.cause for each in self.problems}:
            self.problems.append(problem)

    @override
    def __str__(self) -> str:
        if self.ok:
            return "chaos found no problem. It did this:\n" + "\n".join(
                f"  - {step}" for step in self.steps
            )
        count = len(self.problems)
        title = f"chaos found {count} problem{'s' if count > 1 else ''}"
        return "\n\n".join([title, *map(str, self.problems)])
