"""`gqlnotify trace`: why a subject did not get an event."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

import typer

from gqlnotify import clock
from gqlnotify.cli.common import command_settings, fail, failures_reported
from gqlnotify.cli.trace_lines import JsonLines, Lines, TextLines
from gqlnotify.errors import BadUserInput
from gqlnotify.event import Cursor, Event, Topic, check_topic_name, is_reserved
from gqlnotify.observability.trace_verdict import Asked, Place, Told, judge
from gqlnotify.settings import Settings
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.survey import Answers
from gqlnotify.topics.why import ASKED, Question

_LOOK_SECONDS = 0.5
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def trace(
    subject: Annotated[str | None, typer.Option(help="Who did not get it: a token's sub.")] = None,
    topic: Annotated[str | None, typer.Option(help="The topic's name.")] = None,
    cursor: Annotated[
        str | None, typer.Option(help="The event. By default the topic's newest one.")
    ] = None,
    since: Annotated[str, typer.Option(help="From how long ago on, such as 90s, 5m or 1h.")] = "5m",
    follow: Annotated[
        bool | None,
        typer.Option(
            "--follow/--no-follow",
            help="Go on with each step that happens now. By default if there is no --cursor.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Say why a subject did not get an event, and what happens to both, now and lately.

    It asks every server process that shares the broker at GQLNOTIFY_BROKER_URL. Each process knows
    its connections and subscriptions, and what happened to them in the last minutes.
    """
    follows = cursor is None if follow is None else follow
    question = _question(subject, topic, cursor, since)
    settings = command_settings()
    if settings.broker_url.startswith("memory:"):
        fail("memory:// exists only within a server, so set GQLNOTIFY_BROKER_URL to a Redis")
    with failures_reported(), suppress(KeyboardInterrupt):
        asyncio.run(_report_once(settings, question, _lines(question, as_json=as_json)))
        if follows:
            with suppress(KeyboardInterrupt):
                asyncio.run(_follow(settings, question, _lines(question, as_json=as_json)))
            asyncio.run(_conclude(settings, question, _lines(question, as_json=as_json)))


def _question(subject: str | None, topic: str | None, cursor: str | None, since: str) -> Question:
    if not subject and topic is None:
        fail("Say what to trace: pass --subject, --topic or both")
    if cursor is not None and topic is None:
        fail("--cursor is a cursor of one topic. Pass that topic with --topic")
    if topic is not None and is_reserved(topic):
        fail("Topics that begin with gqlnotify. are internal and can't be traced")
    try:
        if topic is not None:
            check_topic_name(topic)
        if cursor is not None:
            Cursor.parse(cursor)
    except BadUserInput as error:
        fail(str(error))
    return Question(subject=subject or None, topic=topic, cursor=cursor, since=_seconds(since))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        fail(f"{text!r} is not a duration. Write seconds, minutes or hours: 90s, 5m or 1h")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True)
class _Found:
    """The event that was asked for, and where it is in the history."""

    cursor: Cursor
    place: Place
    event: Event | None
    oldest: Cursor
    newest: Cursor


@asynccontextmanager
async def _asking(settings: Settings) -> AsyncIterator[TopicManager]:
    manager = TopicManager(settings=settings)
    manager.survey.only_asks = True
    try:
        await manager.start()
        yield manager
    finally:
        await manager.close()


async def _ask(settings: Settings, question: Question) -> tuple[_Found | None, Answers]:
    async with _asking(settings) as manager:
        found = await _find(manager, question)
        if found is not None:
            question = question.model_copy(update={"cursor": str(found.cursor)})
        return found, await manager.survey.ask(ASKED, question.model_dump())


async def _report_once(settings: Settings, question: Question, lines: Lines) -> None:
    found, answers = await _ask(settings, question)
    for line in _report(question, found, answers, lines):
        typer.echo(line)


async def _conclude(settings: Settings, question: Question, lines: Lines) -> None:
    found, answers = await _ask(settings, question)
    for line in _of_verdict(question, found, _told(answers), lines):
        typer.echo(line)


async def _follow(settings: Settings, question: Question, lines: Lines) -> None:
    """Print each step until the command is interrupted."""
    asked = question.model_copy(update={"follow": uuid4().hex})
    async with _asking(settings) as manager:
        typer.echo("Following each step from now on. Ctrl-C ends it", err=True)
        complaints: set[str] = set()
        while True:
            answers = await manager.survey.ask(ASKED, asked.model_dump())
            for line in _of_missing(answers, lines):
                if line not in complaints:
                    complaints.add(line)
                    typer.echo(line)
            steps = [(each, step) for each in _told(answers) for step in each.value["steps"]]
            for each, step in sorted(steps, key=lambda known: float(known[1]["at"])):
                typer.echo(lines.step(each.process, step))
            for each in _told(answers):
                if each.value["leftOut"]:
                    typer.echo(lines.left_out(each.process, each.value["leftOut"]))
            await asyncio.sleep(_LOOK_SECONDS)


def _lines(question: Question, *, as_json: bool) -> Lines:
    now = clock.now()
    if as_json:
        return JsonLines()
    return TextLines(now, now - question.since, is_coloured=sys.stdout.isatty())


async def _find(manager: TopicManager, question: Question) -> _Found | None:
    if question.topic is None:
        return None
    topic: Topic[Any] = Topic(question.topic, Any)
    newest, oldest = await manager.cursor(topic), await manager.oldest(topic)
    cursor = newest if question.cursor is None else Cursor.parse(question.cursor)
    event = await manager.event_at(topic, cursor)
    return _Found(cursor, _place(cursor, event, oldest, newest), event, oldest, newest)


def _place(cursor: Cursor, event: Event | None, oldest: Cursor, newest: Cursor) -> Place:
    if event is not None:
        return Place.THERE
    if newest.seq == 0:
        return Place.NO_EVENTS
    if cursor.seq > newest.seq:
        return Place.AHEAD
    return Place.GONE if 0 < cursor.seq <= oldest.seq else Place.ELSEWHERE


def _report(
    question: Question, found: _Found | None, answers: Answers, lines: Lines
) -> Iterator[str]:
    told = _told(answers)
    if found is not None:
        yield lines.event(_of_event(question, found))
    yield from _of_processes(answers, lines)
    facts = [(each.process, fact) for each in told for fact in each.facts()]
    for process, fact in sorted(facts, key=lambda known: float(known[1]["at"])):
        yield lines.fact(process, fact)
    for each in told:
        for reading in each.value["readings"]:
            yield lines.subscription(each.process, reading)
    yield from _of_verdict(question, found, told, lines)


def _told(answers: Answers) -> list[Told]:
    return [
        Told(answer.process.name, answer.value)
        for answer in answers.answers
        if isinstance(answer.value, dict)
    ]


def _of_event(question: Question, found: _Found) -> dict[str, Any]:
    published_at = None if found.event is None else found.event.published_at
    return {
        "topic": question.topic,
        "cursor": found.cursor,
        "place": found.place,
        "publishedAt": published_at,
        "oldest": found.oldest,
        "newest": found.newest,
    }


def _of_processes(answers: Answers, lines: Lines) -> Iterator[str]:
    for each in _told(answers):
        line = lines.process(each.process, each.value, None)
        if line is not None:
            yield line
    yield from _of_missing(answers, lines)


def _of_missing(answers: Answers, lines: Lines) -> Iterator[str]:
    """Yield a line for each process of which nothing is known."""
    for answer in answers.answers:
        if answer.error is not None:
            yield lines.process(answer.process.name, None, answer.error) or ""
    for process in answers.silent:
        yield lines.process(process.name, None, "no answer") or ""


def _of_verdict(
    question: Question, found: _Found | None, told: Sequence[Told], lines: Lines
) -> Iterator[str]:
    if question.subject is None or question.topic is None or found is None:
        return
    asked = Asked(question.subject, question.topic, found.cursor, found.place, found.newest)
    fields = {"subject": asked.subject, "topic": asked.topic, "cursor": asked.cursor}
    yield lines.verdict(judge(asked, told), fields)
