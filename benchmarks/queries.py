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
        """Return a subscription to a room, with variables of its own if they are `different`."""

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

        No variable of it changes nothing, so `different` ones decide on selecting the event again.
        """
        bits = range(10 if different else 0)
        declared = "".join(f", $b{bit}: Boolean!" for bit in bits)
        again = "".join(f" ... @include(if: $b{bit}) {{ payload }}" for bit in bits)
        query = (
            f"subscription Events($room: String!{declared}) "
            f"{{ events: notifications(topic: $room) {{ payload{self.fields}{again} }} }}"
        )
        variables = {"room": _topic(room), **({"$BITS": 0} if different else {})}
        return {"query": query, "operationName": "Events", "variables": variables}

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
    return text.replace('"$BITS":0', "$BITS")


def _topic(room: str) -> str:
    return f"bench.{room}"
