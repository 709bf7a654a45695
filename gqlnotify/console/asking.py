"""Asks all processes one question, and says which did not answer."""

from dataclasses import dataclass
from typing import Any

from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.revocation import Revocations
from gqlnotify.topics.survey import ANSWER_SECONDS, Answer, Process


@dataclass(frozen=True)
class Asked:
    """The answers of all processes to one question."""

    answers: tuple[Answer, ...]
    others: tuple[Process, ...]
    """Processes that have nothing to tell, because they have no router: workers, for example."""
    silent: tuple[Process, ...]
    failed: tuple[Answer, ...]

    @property
    def rows(self) -> list[tuple[Process, Any]]:
        """All rows of the answers, each with the process that sent it."""
        return [(each.process, row) for each in self.answers for row in each.value["rows"]]

    @property
    def total(self) -> int:
        """How many rows there are in all processes. Each may have sent only its first ones."""
        return sum(each.value["total"] for each in self.answers)


class Console:
    """What the resolvers of the console use.

    Args:
        topics: the topics of the application.
        revocations: revokes tokens.
    """

    def __init__(self, topics: TopicManager, revocations: Revocations) -> None:
        self.topics = topics
        self.revocations = revocations

    async def ask(self, kind: str, **arguments: Any) -> Asked:
        """Ask all processes. Those that take longer than a second are silent.

        Raises:
            BrokerUnavailable: the broker can't be reached.
        """
        answers = await self.topics.survey.ask(kind, arguments, seconds=ANSWER_SECONDS)
        return Asked(
            answers=tuple(each for each in answers.answers if each.error is None),
            others=tuple(each.process for each in answers.answers if not each.is_known),
            silent=answers.silent,
            failed=tuple(each for each in answers.answers if each.error and each.is_known),
        )
