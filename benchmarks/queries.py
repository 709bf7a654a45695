"""What clients ask of the subjects, in two schemas: the laboratory's rooms and the task service.

A subscription calls its field `events`, so that all answers have one shape. `$` begins what the
load client puts in; see load.c.
"""

import json
from dataclasses import dataclass
from typing import Any, Protocol

_EVENT = {"seq": "$SEQ", "sentAt": "$NOW", "kind": "created"}


class Queries(Protocol):
    """The subscriptions and mutations of one schema."""

    def subscribe(self, room: str, *, different: bool) -> dict[str, Any]:
        """Return a subscription to a room, one of its own if they are `different`."""

    def publish(self, room: str, count: int, text: str) -> dict[str, Any]:
        """Return a mutation that publishes `count` events."""

    def event(self, data: Any) -> Any:
        """Return the event that the data of a result contains."""


@dataclass(frozen=True)
class Rooms:
    """The schema of the applications in `apps`: the server makes the event."""

    def subscribe(self, room: str, *, different: bool) -> dict[str, Any]:
        """Return a subscription to a room."""
        query = (
            "subscription Events($room: String!, $tag: Int) "
            "{ events(room: $room, tag: $tag) { seq sentAt kind text } }"
        )
        variables = {"room": room, "tag": "$NUMBER" if different else 0}
        return {"query": query, "operationName": "Events", "variables": variables}

    def publish(self, room: str, count: int, text: str) -> dict[str, Any]:  # noqa: ARG002
        """Return a mutation that publishes `count` events in one loop."""
        query = (
            "mutation Publish($count: Int!, $room: String!) { publish(count: $count, room: $room) }"
        )
        return {"query": query, "variables": {"count": count, "room": room}}

    def event(self, data: Any) -> Any:
        """Return the event."""
        return data["events"]


@dataclass(frozen=True)
class Tasks:
    """The schema of the task service, with notifications: the client makes the event.

    `fields` is what a subscription selects besides the event.
    """

    fields: str = ""

    def subscribe(self, room: str, *, different: bool) -> dict[str, Any]:
        """Return a subscription to a topic.

        No variable of it changes nothing, so the extensions are `different`.
        """
        query = (
            "subscription Events($room: String!) "
            f"{{ events: notifications(topic: $room) {{ payload{self.fields} }} }}"
        )
        extensions = {"extensions": {"tag": "$NUMBER"}} if different else {}
        variables = {"room": _topic(room)}
        return {"query": query, "operationName": "Events", "variables": variables, **extensions}

    def publish(self, room: str, count: int, text: str) -> dict[str, Any]:
        """Return a mutation that publishes `count` events, a field for each."""
        declared = "".join(f", $p{each}: JSON!" for each in range(count))
        fields = " ".join(
            f"p{each}: publish(topic: $room, payload: $p{each}) {{ cursor }}"
            for each in range(count)
        )
        query = f"mutation Publish($room: String!{declared}) {{ {fields} }}"
        events = {f"p{each}": {**_EVENT, "text": text} for each in range(count)}
        return {"query": query, "variables": {"room": _topic(room), **events}}

    def event(self, data: Any) -> Any:
        """Return the payload."""
        return data["events"]["payload"]


def as_json(value: object) -> str:
    """Return compact JSON, in which the load client's words are no strings."""
    text = json.dumps(value, separators=(",", ":"))
    for word in ("$SEQ", "$NOW", "$NUMBER"):
        text = text.replace(f'"{word}"', word)
    return text


def _topic(room: str) -> str:
    return f"bench.{room}"
