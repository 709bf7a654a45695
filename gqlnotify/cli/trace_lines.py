"""What `gqlnotify trace` prints: aligned lines for people, or one object of JSON a line."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

import typer
from typing_extensions import override

from gqlnotify.cli.common import printable
from gqlnotify.observability.trace_verdict import Cause, Verdict

Fields = Mapping[str, Any]

# The text of these facts is the filter.
_BEFORE_FILTERS = {"subscribed": "through ", "filtered": "by "}

_FAULTS = {
    *("closed", "expired", "failed", "gap", "not_published", "peer_silent", "refused"),
    *("revoked", "too_slow", "unreadable"),
}


class Lines(Protocol):
    """Turns what is known into lines."""

    def event(self, fields: Fields) -> str:
        """Return the line of the event that was asked for."""

    def process(self, name: str, value: Fields | None, error: str | None) -> str | None:
        """Return the line of a process: what it knows, or why it knows nothing."""

    def fact(self, process: str, fact: Fields) -> str:
        """Return the line of one thing that happened."""

    def step(self, process: str, step: Fields) -> str:
        """Return the line of something that has just happened."""

    def left_out(self, process: str, steps: int) -> str:
        """Return the line that says how many steps came too fast to be told."""

    def subscription(self, process: str, reading: Fields) -> str:
        """Return the line of a running subscription."""

    def verdict(self, verdict: Verdict, fields: Fields) -> str:
        """Return the last line."""


class JsonLines(Lines):
    """One object a line. `docs/trace.md` lists the fields."""

    @override
    def event(self, fields: Fields) -> str:
        return _json("event", fields)

    @override
    def process(self, name: str, value: Fields | None, error: str | None) -> str:
        known = {key: (value or {}).get(key) for key in ("recordedSince", "received")}
        return _json("process", {"process": name, **known, "error": error})

    @override
    def fact(self, process: str, fact: Fields) -> str:
        return _json("fact", {"process": process, **fact})

    @override
    def step(self, process: str, step: Fields) -> str:
        return _json("step", {"process": process, **step})

    @override
    def left_out(self, process: str, steps: int) -> str:
        return _json("leftOut", {"process": process, "steps": steps})

    @override
    def subscription(self, process: str, reading: Fields) -> str:
        return _json("subscription", {"process": process, **reading})

    @override
    def verdict(self, verdict: Verdict, fields: Fields) -> str:
        found = {"cause": verdict.cause, "text": verdict.text, "process": verdict.process}
        return _json("verdict", {**fields, **found})


class TextLines(Lines):
    """Lines for people.

    Args:
        now: what times are relative to, in seconds since 1970.
        since: from when on the facts are asked for.
        is_coloured: whether the output is a terminal.
    """

    def __init__(self, now: float, since: float, *, is_coloured: bool) -> None:
        self._now = now
        self._since = since
        self._is_coloured = is_coloured

    @override
    def event(self, fields: Fields) -> str:
        where = {
            "there": f"published {self._ago(fields.get('publishedAt'))}",
            "no_events": "the topic has no events",
            "gone": f"no longer in the history, which begins after {fields.get('oldest')}",
        }.get(fields["place"], f"not in the history: its newest event is {fields.get('newest')}")
        return self._painted(f"{fields['topic']} {fields['cursor']}: {where}", bold=True)

    @override
    def process(self, name: str, value: Fields | None, error: str | None) -> str | None:
        if value is None:
            return self._painted(f"{name}: {error or 'no answer'}", fg="red")
        if value["recordedSince"] > self._since:
            when = self._ago(value["recordedSince"])
            return f"{name} remembers nothing from before {when}"
        return None

    @override
    def fact(self, process: str, fact: Fields) -> str:
        return self._line(self._ago(fact["at"]), process, fact)

    @override
    def step(self, process: str, step: Fields) -> str:
        at = datetime.fromtimestamp(step["at"]).astimezone()
        return self._line(f"{at:%H:%M:%S}.{at.microsecond // 1000:03}", process, step)

    @override
    def left_out(self, process: str, steps: int) -> str:
        return self._painted(f"{process}: {steps} steps came too fast and are left out", fg="red")

    def _line(self, when: str, process: str, fact: Fields) -> str:
        kind = fact["kind"].replace("_", " ")
        what = self._painted(f"{kind:13}", fg="red" if fact["kind"] in _FAULTS else None)
        return f"{when:>15}  {process}  {what} {' '.join(_details(fact))}".rstrip()

    @override
    def subscription(self, process: str, reading: Fields) -> str:
        what = self._painted(f"{'reads':13}", fg="green")
        return f"{'now':>15}  {process}  {what} {' '.join(_state(reading))}"

    @override
    def verdict(self, verdict: Verdict, fields: Fields) -> str:
        who, event = fields["subject"], f"{fields['topic']} {fields['cursor']}"
        got = verdict.cause in {Cause.DELIVERED, Cause.SENT}
        begin = f"{who} did get {event}" if verdict.cause is Cause.DELIVERED else ""
        begin = begin or (f"{event} was sent to {who}" if got else f"{who} did not get {event}")
        link = ":" if got else " because"
        end = "" if verdict.text.endswith("?") else "."
        text = printable(f"{begin}{link} {verdict.text}{end} [{verdict.cause}]")
        return self._painted(text, bold=True, fg="green" if got else "yellow")

    def _ago(self, at: float | None) -> str:
        if at is None:
            return "at an unknown time"
        seconds = max(self._now - at, 0.0)
        if seconds < 60:
            return f"{seconds:.1f} s ago"
        return f"{int(seconds // 60)} min {int(seconds % 60)} s ago"

    def _painted(self, text: str, *, fg: str | None = None, bold: bool = False) -> str:
        return typer.style(text, fg=fg, bold=bold) if self._is_coloured else text


def _details(fact: Fields) -> Iterator[str]:
    subject, topic, cursor = fact.get("subject"), fact.get("topic"), fact.get("cursor")
    if subject is not None:
        yield printable(subject)
    if topic is not None:
        yield topic
    if cursor is not None:
        yield f"after {cursor}" if fact["kind"] in {"gap", "resumed", "subscribed"} else cursor
    if "until" in fact:
        yield f"up to {fact['until']}"
    if "code" in fact:
        yield printable(fact["code"])
    if "text" in fact:
        yield printable(f"{_BEFORE_FILTERS.get(fact['kind'], '')}{fact['text']}")
    if "connection" in fact:
        yield f"(connection {fact['connection']})"


def _state(reading: Fields) -> Iterator[str]:
    yield printable(reading.get("subject") or "a client without a token")
    yield f"{reading['topic']} after {reading['began']}, is at {reading['reached']}"
    if "acknowledged" in reading:
        yield f"(acknowledged {reading['acknowledged']})"
    if reading.get("heldBytes"):
        yield f"with {reading['heldBytes']} bytes unread"
    if "filter" in reading:
        yield printable(f"through {reading['filter']}")
    if "scope" in reading:
        yield printable(f"in the scope {reading['scope']}")
    if "connection" in reading:
        yield f"(connection {reading['connection']})"


def _json(type_: str, fields: Fields) -> str:
    known = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"type": type_, **known}, ensure_ascii=False)
