"""Topics cost memory, so a subject may ask for a limited number of new ones."""

import pytest

from gqlnotify import Principal, Topic, TopicManager
from gqlnotify.auth import Viewer, viewing
from gqlnotify.auth.viewer import view_as_everybody
from gqlnotify.errors import TooManyTopics
from gqlnotify.settings import Settings
from gqlnotify.topics.topic_budget import TopicBudget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_subject_can_ask_for_a_limited_number_of_new_topics_an_hour() -> None:
    clock = Clock()
    budget = TopicBudget(10, now=clock)
    for number in range(10):
        budget.spend("mallory", f"user.{number}")

    with pytest.raises(TooManyTopics) as refused:
        budget.spend("mallory", "user.10")
    assert refused.value.extensions["retryAfter"] == 360
    budget.spend("alice", "user.11")
    clock.now += 360
    budget.spend("mallory", "user.10")
    with pytest.raises(TooManyTopics):
        budget.spend("mallory", "user.12")


def test_a_known_topic_costs_nothing() -> None:
    budget = TopicBudget(1)
    budget.spend("alice", "tasks")

    for _ in range(100):
        budget.spend("alice", "tasks")
        budget.spend("bob", "tasks")


def test_the_memory_of_a_budget_is_bounded() -> None:
    budget = TopicBudget(1, max_known=2)
    for subject in ("alice", "bob", "carol"):
        budget.spend(subject, f"of.{subject}")

    assert len(budget._topics) == len(budget._rates) == 2


async def test_a_shared_execution_can_ask_for_a_cursor() -> None:
    manager = TopicManager(settings=Settings(new_topics_per_subject=1))
    try:
        with viewing(None):
            view_as_everybody()
            for number in range(3):
                await manager.cursor(Topic(f"user.{number}", int))
    finally:
        await manager.close()


@pytest.mark.parametrize("operation", ["subscribe", "cursor", "present"])
async def test_a_subject_that_asks_for_too_many_topics_is_refused(operation: str) -> None:
    manager = TopicManager(settings=Settings(new_topics_per_subject=3))
    viewer = Viewer(Principal("mallory", subscribe=("user.*",), presence=("user.*",)))

    async def ask(number: int) -> None:
        topic = Topic(f"user.{number}", int, presence=True)
        with viewing(viewer):
            if operation == "cursor":
                await manager.cursor(topic)
            elif operation == "present":
                await manager.present(topic)
            else:
                await manager.subscribe(topic).start()

    try:
        for number in range(3):
            await ask(number)
        with pytest.raises(TooManyTopics, match="GQLNOTIFY_NEW_TOPICS_PER_SUBJECT"):
            await ask(3)
        await ask(0)
    finally:
        await manager.close()
