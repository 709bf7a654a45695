"""Finds data of one viewer in the results of another."""

from collections.abc import Iterator, Sequence
from typing import Any

from gqlnotify.testing.client import Result
from gqlnotify.testing.reader import Reader, Viewer
from gqlnotify.testing.report import Kind, Problem, Report

_SHARED = (
    "what resolvers of several viewers share: a data loader or a cache that lives longer than one "
    "event, and whose key does not contain the viewer (docs/how-to/data-loaders.md)"
)
_FILTER = "the resolver's `where` and the topic: this event belongs to another viewer"


class Viewers:
    """Compares what each viewer gets alone with what it gets in company.

    A field that names the viewer as long as it is alone, and another viewer when that one is
    connected too, has leaked.
    """

    def __init__(self, viewers: Sequence[Viewer], report: Report) -> None:
        self._subjects = [viewer.subject for viewer in viewers if viewer.subject]
        self._report = report
        # Operation, subject and path of each field that names the viewer.
        self._own: set[tuple[str, str, str]] = set()

    def look(self, reader: Reader, result: Result, step: str, *, is_alone: bool) -> None:
        """Look at one result."""
        subject, title = reader.viewer.subject, reader.operation.title
        if subject is None:
            return
        owner = reader.operation.owner and reader.operation.owner(result.data)
        if owner is not None and owner != subject:
            what = f"It got an event of {owner}: {result.data}"
            self._report.add(Problem(Kind.LEAKED, title, subject, what, step, _FILTER))
        for path, value in _leaves(result.data):
            place = (title, subject, path)
            if subject in value and is_alone:
                self._own.add(place)
            elif place in self._own and subject not in value:
                self._named_another(place, value, step)

    def _named_another(self, place: tuple[str, str, str], value: str, step: str) -> None:
        title, subject, path = place
        if any(other in value for other in self._subjects if other != subject):
            what = f"{path} is {value!r}, and names {subject} when nobody else is connected"
            self._report.add(Problem(Kind.LEAKED, title, subject, what, step, _SHARED))


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(data, list):
        for value in data:
            yield from _leaves(value, f"{path}[]")
    elif data is not None:
        yield path, str(data)
