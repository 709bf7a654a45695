"""What a process tells the console about itself: its figures, topics, connections and operations.

Nothing runs here before a console asks, and its answers are bounded: the first rows and a count.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from heapq import nsmallest
from typing import Any, TypeVar

from gqlnotify.event import is_reserved
from gqlnotify.execution.shared import SharedExecution
from gqlnotify.observability import metrics
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.survey import Arguments

OVERVIEW = "console.overview"
TOPICS = "console.topics"
CONNECTIONS = "console.connections"
OPERATIONS = "console.operations"
DISCONNECT = "console.disconnect"
MAX_ROWS = 200
"""How many rows a process sends at most."""

Facts = dict[str, Any]
T = TypeVar("T")


class Described(metrics.Sampled):
    """A socket or stream that the console shows."""

    __slots__ = ()

    @property
    @abstractmethod
    def topics(self) -> TopicManager | None:
        """The topics of its router."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Its id, which its log lines have too."""

    @property
    @abstractmethod
    def since(self) -> float:
        """When it began, in seconds since 1970."""

    @property
    @abstractmethod
    def names(self) -> str:
        """What the console finds it by: its id, subject and address."""

    @abstractmethod
    def describe(self) -> Facts:
        """Return what is known about it."""

    @abstractmethod
    def disconnect(self) -> None:
        """End it. Its client may come back."""


def answer_for(topics: TopicManager) -> None:
    """Answer the console's questions about what uses `topics`. A second call changes nothing."""
    for kind, answer in _ANSWERS.items():
        topics.survey.on(kind, partial(answer, topics))


def _overview(_topics: TopicManager, _arguments: Arguments) -> Facts:
    return metrics.figures()


def _topics(topics: TopicManager, arguments: Arguments) -> Facts:
    groups, members = Counter[str](), Counter[str]()
    for execution in _shared_executions(topics):
        groups[execution.topic] += 1
        members[execution.topic] += execution.members
    rows: list[Facts] = [
        {
            "name": name,
            # A group reads the topic with one position for all of its members.
            "subscribers": positions - groups[name] + members[name],
            "groups": groups[name],
            "newest": newest,
        }
        for name, (positions, newest) in topics.live_topics.listened().items()
        if not is_reserved(name)
    ]
    return _first(rows, arguments, lambda row: str(row["name"]), lambda row: row["name"])


def _connections(topics: TopicManager, arguments: Arguments) -> Facts:
    found = _first(_described(topics), arguments, lambda each: each.names, lambda each: each.since)
    return {**found, "rows": [each.describe() for each in found["rows"]]}


def _operations(topics: TopicManager, arguments: Arguments) -> Facts:
    return _first(
        [execution.describe() for execution in _shared_executions(topics)],
        arguments,
        lambda row: f"{row['document']} {row['topic']}",
        lambda row: -row["seconds"],
    )


def _disconnect(topics: TopicManager, arguments: Arguments) -> bool:
    for each in _described(topics):
        if each.id == arguments["connection"]:
            each.disconnect()
            return True
    return False


_ANSWERS: Mapping[str, Callable[[TopicManager, Arguments], Any]] = {
    OVERVIEW: _overview,
    TOPICS: _topics,
    CONNECTIONS: _connections,
    OPERATIONS: _operations,
    DISCONNECT: _disconnect,
}


def _first(
    rows: "list[T]", arguments: Arguments, text: Callable[[T], str], order: Callable[[T], Any]
) -> Facts:
    """Return the first rows whose text contains what is searched for, and how many there are."""
    wanted = str(arguments.get("search", "")).casefold()
    found = [row for row in rows if wanted in text(row).casefold()]
    limit = min(int(arguments.get("first", MAX_ROWS)), MAX_ROWS)
    return {"rows": nsmallest(limit, found, key=order), "total": len(found)}


def _described(topics: TopicManager) -> list[Described]:
    found = (each for each in metrics.watched() if isinstance(each, Described))
    return [each for each in found if each.topics is topics]


def _shared_executions(topics: TopicManager) -> Iterator[SharedExecution]:
    for each in metrics.watched():
        if isinstance(each, SharedExecution) and each.belongs_to(topics):
            yield each
