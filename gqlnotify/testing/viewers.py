"""Finds data of one viewer in the results of another."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from gqlnotify.testing.reader import Operation, Reader, Viewer
from gqlnotify.testing.report import Kind, Problem, Report
from gqlnotify.testing.stream import Result

_SHARED = (
    "what resolvers of several viewers share: a data loader or a cache that lives longer than one "
    "event, and whose key does not contain the viewer (docs/how-to/data-loaders.md)"
)
_FILTER = "the resolver's `where` and the topic: this event belongs to another viewer"

_Place = tuple[Operation, str]
"""An operation, and the path of a field in its results."""


class Viewers:
    """Compares what each viewer gets alone with what it gets in company.

    A field has leaked if it has a value of another viewer in company: if it names that viewer, and
    named its own reader alone; or if it always had the same value alone, another one for that
    viewer, and has that one now.
    """

    def __init__(self, viewers: Sequence[Viewer], report: Report) -> None:
        self._subjects = [viewer.subject for viewer in viewers if viewer.subject]
        self._report = report
        # For each place, the values that each subject got alone.
        self._alone: defaultdict[_Place, defaultdict[str, set[str]]] = defaultdict(
            lambda: defaultdict(set)
        )

    def look(self, reader: Reader, result: Result, step: str, *, is_alone: bool) -> None:
        """Look at one result."""
        subject, operation = reader.viewer.subject, reader.operation
        if subject is None:
            return
        owner = operation.owner and operation.owner(result.data)
        if owner is not None and owner != subject:
            what = f"it got an event of {owner}: {result.data}"
            self._add(operation, subject, what, step, _FILTER)
        for path, value in _leaves(result.data):
            if is_alone:
                self._alone[operation, path][subject].add(value)
            elif (other := self._other(self._alone[operation, path], subject, value)) is not None:
                what = f"{path} is {value!r}, which is what {other} gets. Alone it was "
                what += repr(min(self._alone[operation, path][subject]))
                self._add(operation, subject, what, step, _SHARED)

    def _other(self, alone: defaultdict[str, set[str]], subject: str, value: str) -> str | None:
        """Return whose value this is, if it can't be the subject's own."""
        if value in alone[subject]:
            return None
        named_itself = bool(alone[subject]) and all(subject in own for own in alone[subject])
        for other in self._subjects:
            names_other = named_itself and subject not in value and other in value
            is_constant = len(alone[subject]) == 1 and alone[other] == {value}
            if other != subject and (names_other or is_constant):
                return other
        return None

    def _add(self, operation: Operation, subject: str, what: str, step: str, look_at: str) -> None:
        self._report.add(Problem(Kind.LEAKED, operation.title, subject, what, step, look_at))


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(data, list):
        for value in data:
            yield from _leaves(value, f"{path}[]")
    elif data is not None:
        yield path, str(data)
