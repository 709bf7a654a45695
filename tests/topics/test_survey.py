"""A survey asks all processes that share a broker."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from gqlnotify import Settings, TopicManager
from gqlnotify.brokers import MemoryBroker
from gqlnotify.errors import BadUserInput, BrokerUnavailable
from gqlnotify.settings import HELLOS, SURVEYS
from gqlnotify.topics import survey
from gqlnotify.topics.survey import Answers
from tests.waiting import wait_until

PATIENT = 20.0

PROCESS = """
import asyncio, os, sys
from gqlnotify import Settings, TopicManager

async def main():
    topics = TopicManager(settings=Settings(broker_url=sys.argv[1], broker_prefix=sys.argv[2]))
    topics.survey.on("pid", lambda arguments: os.getpid())
    await topics.start()
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def values(answers: Answers) -> list[Any]:
    return [answer.value for answer in answers.answers]


async def knows(topics: TopicManager, count: int) -> bool:
    """Return whether this many managers answer."""
    answers = await topics.survey.ask("none", seconds=0.2)
    return len(answers.answers) == count and not answers.silent


def returning(value: Any, _arguments: Any) -> Any:
    return value


class TestInOneProcess:
    @pytest.fixture
    async def topics(self) -> AsyncIterator[TopicManager]:
        topics = TopicManager(MemoryBroker())
        await topics.start()
        yield topics
        await topics.close()

    async def test_the_process_answers_itself(self, topics: TopicManager) -> None:
        topics.survey.on("double", lambda arguments: arguments["n"] * 2)

        answers = await topics.survey.ask("double", {"n": 21})

        assert values(answers) == [42]
        assert answers.answers[0].process.pid == os.getpid()
        assert answers.silent == ()

    async def test_a_handler_may_be_a_coroutine_function(self, topics: TopicManager) -> None:
        async def later(_arguments: Any) -> str:
            await asyncio.sleep(0)
            return "done"

        topics.survey.on("later", later)

        assert values(await topics.survey.ask("later")) == ["done"]

    async def test_a_handler_that_takes_too_long_is_an_error(self, topics: TopicManager) -> None:
        async def never(_arguments: Any) -> None:
            await asyncio.Event().wait()

        topics.survey.on("never", never)

        [answer] = (await topics.survey.ask("never", seconds=0.01)).answers
        assert answer.error == "The answer took longer than 0.01 s"

    async def test_a_handler_that_fails_is_an_error_without_its_text(
        self, topics: TopicManager
    ) -> None:
        def fail(_arguments: Any) -> None:
            raise ValueError("a secret")

        topics.survey.on("fail", fail)

        [answer] = (await topics.survey.ask("fail")).answers
        assert answer.error == "The handler failed: ValueError"

    async def test_a_handler_can_tell_the_asker_what_is_wrong(self, topics: TopicManager) -> None:
        def refuse(_arguments: Any) -> None:
            raise BadUserInput("Ask for less")

        topics.survey.on("refuse", refuse)

        [answer] = (await topics.survey.ask("refuse")).answers
        assert answer.error == "Ask for less"

    async def test_an_unknown_kind_is_an_error_that_names_it(self, topics: TopicManager) -> None:
        [answer] = (await topics.survey.ask("new")).answers

        assert answer.value is None
        assert not answer.is_known
        assert "does not know 'new'" in str(answer.error)

    async def test_nothing_is_published_if_no_other_process_can_share_the_broker(
        self, topics: TopicManager
    ) -> None:
        await topics.survey.ask("none")

        assert topics._broker._histories == {}  # type: ignore[attr-defined]


class TestOverRedis:
    @pytest.fixture
    def settings(self, redis_url: str) -> Settings:
        return Settings(broker_url=redis_url, broker_prefix=f"survey-{uuid4()}")

    @pytest.fixture
    async def two(self, settings: Settings) -> AsyncIterator[tuple[TopicManager, TopicManager]]:
        pair = TopicManager(settings=settings), TopicManager(settings=settings)
        for topics in pair:
            await topics.start()
        await wait_until(lambda: knows(pair[0], 2))
        yield pair
        for topics in pair:
            await topics.close()

    async def test_two_managers_in_one_process_both_answer(
        self, two: tuple[TopicManager, TopicManager]
    ) -> None:
        two[0].survey.on("number", lambda _arguments: 0)
        two[1].survey.on("number", lambda _arguments: 1)

        answers = await two[1].survey.ask("number", seconds=PATIENT)

        assert sorted(values(answers)) == [0, 1]
        assert {answer.process.pid for answer in answers.answers} == {os.getpid()}
        assert len({answer.process.name for answer in answers.answers}) == 2

    async def test_a_long_answer_arrives_in_pieces(
        self, two: tuple[TopicManager, TopicManager]
    ) -> None:
        long = ['"ü\\' * 20] * 2000
        two[0].survey.on("long", lambda _arguments: long)
        two[1].survey.on("long", lambda _arguments: "x" * survey.MAX_ANSWER)

        answers = await two[0].survey.ask("long", seconds=PATIENT)

        assert long in values(answers)
        [error] = [answer.error for answer in answers.answers if answer.error]
        assert error == "The answer has 1000041 characters, and at most 1000000 are sent"

    async def test_an_answer_that_is_not_json_is_an_error(
        self, two: tuple[TopicManager, TopicManager]
    ) -> None:
        for topics, value in zip(two, (object(), float("nan")), strict=True):
            topics.survey.on("odd", partial(returning, value))

        answers = await two[0].survey.ask("odd", seconds=PATIENT)

        assert [answer.error for answer in answers.answers] == [
            "The answer can't be encoded as JSON"
        ] * 2

    async def test_who_asks_a_broker_that_does_not_confirm_is_told_so(
        self, two: tuple[TopicManager, TopicManager], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(survey, "_HEAR_SECONDS", 0.0)

        with pytest.raises(BrokerUnavailable, match="did not confirm"):
            await two[1].survey.ask("none")

    async def test_who_has_left_is_not_waited_for(
        self, two: tuple[TopicManager, TopicManager]
    ) -> None:
        await two[1].close()

        answers = await two[0].survey.ask("none", seconds=PATIENT)

        assert [answer.process for answer in answers.answers] == [two[0].survey.process]
        assert answers.silent == ()

    async def test_who_only_asks_is_not_asked(
        self, settings: Settings, two: tuple[TopicManager, TopicManager]
    ) -> None:
        topics = TopicManager(settings=settings)
        topics.survey.only_asks = True
        async with topics.held_open():
            answers = await topics.survey.ask("none", seconds=PATIENT)

        assert len(answers.answers) == 2

    async def test_what_can_not_be_read_is_ignored(
        self, two: tuple[TopicManager, TopicManager]
    ) -> None:
        broker = two[0]._broker
        for topic in (f"{SURVEYS}requests", f"{SURVEYS}replies.x", HELLOS):
            for payload in (b"\xff", b"[]", b"{}", json.dumps({"id": "x" * 100}).encode()):
                await broker.publish(topic, payload)

        await wait_until(lambda: knows(two[0], 2))

    async def test_an_old_request_is_ignored(
        self, two: tuple[TopicManager, TopicManager], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(survey, "_OLD_SECONDS", -60.0)

        answers = await two[0].survey.ask("none", seconds=0.2)

        assert answers.answers == ()
        assert len(answers.silent) == 2

    @pytest.mark.processes
    async def test_a_process_that_does_not_answer_is_named(self, settings: Settings) -> None:
        topics = TopicManager(settings=settings)
        topics.survey.only_asks = True
        with processes(settings, 3) as running:
            pids = {each.pid for each in running}
            two = running[1]
            async with topics.held_open():
                await wait_until(lambda: knows(topics, 3))
                all_answers = await topics.survey.ask("pid", seconds=PATIENT)
                two.send_signal(signal.SIGSTOP)
                answers = await topics.survey.ask("pid", seconds=0.5)
                two.send_signal(signal.SIGCONT)
                again = await topics.survey.ask("pid", seconds=PATIENT)
                two.kill()
                after_its_end = await topics.survey.ask("pid", seconds=0.5)

        assert set(values(all_answers)) == pids
        assert set(values(answers)) == pids - {two.pid}
        assert [silent.pid for silent in answers.silent] == [two.pid]
        assert set(values(again)) == pids
        assert [silent.pid for silent in after_its_end.silent] == [two.pid]


@contextmanager
def processes(settings: Settings, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Run processes that answer, and have started."""
    command = [sys.executable, "-c", PROCESS, settings.broker_url, settings.broker_prefix]
    with ExitStack() as ends:
        running = list[subprocess.Popen[str]]()
        for _ in range(count):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            ends.enter_context(process)
            ends.callback(process.kill)
            running.append(process)
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
        yield running
