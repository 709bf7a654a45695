"""The server's metrics for Prometheus, and the endpoint that serves them.

A counter is increased once for each event, batch or connection, never once for each delivery: that
would cost more than the delivery itself. If `PROMETHEUS_MULTIPROC_DIR` is set in the environment,
each process on a machine serves the metrics of all of them.
"""

import asyncio
import os
from collections import Counter as Sums
from collections.abc import Iterator, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from gqlnotify import clock
from gqlnotify.event_loop import OnePerLoop
from gqlnotify.extras import MissingExtra
from gqlnotify.observability.prometheus import (
    DIRECTORY,
    Counter,
    Gauge,
    Histogram,
    exposition,
    samples,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_SAMPLE_SECONDS = 5.0
_DELAYS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


def _gauge(name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
    return Gauge(f"gqlnotify_{name}", meaning, labels, multiprocess_mode="livesum")


connections = _gauge("connections", "Open WebSockets.")
streams = _gauge("streams", "Open streams over HTTP (SSE and multipart).")
_operations = _gauge(
    "operations", "Running operations on WebSockets, by how they are executed.", ["how"]
)
shared_operations = _operations.labels("shared")
own_operations = _operations.labels("alone")
groups = _gauge("groups", "Groups of equal subscriptions, which share their executions.")
topics = _gauge("topics", "Topics that this process listens to.")
subscribers = _gauge(
    "readers", "Positions in topics, of groups and of subscriptions that are not in a group."
)
held_bytes = _gauge("held_bytes", "Bytes that wait to be read by the peers of all WebSockets.")
revocations = Gauge(
    "gqlnotify_revocations",
    "Revocations that have not expired. Each process knows all of them.",
    # Each process knows the same revocations, so their sum would be wrong.
    multiprocess_mode="livemax",
)

events_published = Counter("gqlnotify_events_published", "Events that this process published.")
events_received = Counter(
    "gqlnotify_events_received", "Events that the broker delivered, counted once for each topic."
)
unreadable_events = Counter(
    "gqlnotify_unreadable_events",
    "Events that this process could not decode. Their subscribers get an error.",
)
executions = Counter("gqlnotify_executions", "Executions of an event.")
executions_saved = Counter(
    "gqlnotify_executions_saved", "Deliveries that shared the execution of another subscription."
)
snapshot_loads = Counter("gqlnotify_snapshot_loads", "Shared calls of `load` of live lists.")
deliveries = Counter("gqlnotify_deliveries", "Results of events that were sent to subscribers.")
sent_bytes = Counter(
    "gqlnotify_sent_bytes",
    "Bytes of messages that were sent to WebSockets, before compression and framing.",
)
publish_to_write = Histogram(
    "gqlnotify_publish_to_write_seconds",
    "Time from the broker's receipt of an event to the write of its messages, for each group.",
    buckets=_DELAYS,
)
slow_readers_ended = Counter(
    "gqlnotify_slow_readers_ended", "Connections that were closed because the peer read too slowly."
)
broker_reconnects = Counter(
    "gqlnotify_broker_reconnects", "Live connections to the broker that were lost and made again."
)
catch_ups = Counter(
    "gqlnotify_catch_ups", "Times that the history had events that the live path had missed."
)
gaps = Counter(
    "gqlnotify_gaps", "Times that a topic's history did not reach back to a subscriber's position."
)
auto_resumes = Counter(
    "gqlnotify_auto_resumes",
    "Operations of clients that came back without a cursor: `resumed`, or `expired` if the history "
    "no longer reached back.",
    ["outcome"],
)
_refusals = Counter(
    "gqlnotify_refusals", "Refused requests and closed connections, by reason.", ["reason"]
)


def refused(reason: str) -> None:
    """Count a refusal by its reason: an error's `code`, or a closed connection's `label`."""
    _refusals.labels(reason.lower()).inc()
    if reason.lower() == "too_slow":
        slow_readers_ended.inc()


def delivered(messages: int, size: int) -> None:
    """Count results that were sent to WebSockets, and the total of their bytes."""
    deliveries.inc(messages)
    sent_bytes.inc(size)


class DeliveryCounter(OnePerLoop):
    """Counts what the groups of one event loop deliver in a tick: once, after the writes."""

    def __init__(self) -> None:
        self._messages = self._size = self._saved = 0
        self._published_at: list[float] = []

    def add(self, members: int, events: int, size: int, published_at: Sequence[float]) -> None:
        """Note that each of `members` members got `events` events, `size` bytes in total.

        Call this after the results were passed to the members. The write is then already scheduled,
        so it runs before the count, and `publish_to_write` includes it.

        Args:
            members: The number of members.
            events: The number of events that each member got.
            size: The bytes that each member got.
            published_at: When the broker received each event, in seconds since 1970.
        """
        if not self._messages:
            asyncio.get_running_loop().call_soon(self._count, context=Context())
        self._messages += members * events
        self._size += members * size
        self._saved += (members - 1) * events
        self._published_at += published_at

    def _count(self) -> None:
        delivered(self._messages, self._size)
        executions_saved.inc(self._saved)
        now = clock.now()
        for then in self._published_at:
            # The clock of the broker's machine may be ahead of ours.
            publish_to_write.observe(max(now - then, 0.0))
        self._messages = self._size = self._saved = 0
        self._published_at = []


Load = Iterator[tuple[Gauge, float]]
"""Gauges, and what an object adds to each of them."""


class Sampled(Protocol):
    """An object that gauges count while it exists."""

    __slots__ = ()

    def load(self) -> Load:
        """Yield each gauge that the object adds to, and how much."""


class _Watch:
    """Sets the gauges from all sampled objects.

    It does so at a scrape, and every 5 seconds if another process can get the scrape.
    """

    def __init__(self) -> None:
        self.sampled: WeakSet[Sampled] = WeakSet()
        self._loop: asyncio.AbstractEventLoop | None = None

    def sample(self) -> Sums[Gauge]:
        """Set the gauges, and return their values."""
        sums: Sums[Gauge] = Sums()
        for one in self.sampled:
            for gauge, value in one.load():
                sums[gauge] += value  # type: ignore[assignment]  # sizes are whole numbers
        for gauge in _SAMPLED:
            gauge.set(sums[gauge])
        return sums

    def sample_regularly(self) -> None:
        """Sample regularly until no sampled object is left; once for each event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(_SAMPLE_SECONDS, self._sample_again, context=Context())

    def _sample_again(self) -> None:
        self._loop = None
        self.sample()
        if self.sampled:
            self.sample_regularly()


_SAMPLED = (
    *(connections, streams, shared_operations, own_operations, held_bytes),
    *(groups, topics, subscribers, revocations),
)
_watch = _Watch()


def watch(one: Sampled) -> None:
    """Count `one` until `unwatch`, or until it is garbage-collected."""
    _watch.sampled.add(one)
    if DIRECTORY in os.environ:
        _watch.sample_regularly()


def unwatch(one: Sampled) -> None:
    """Stop counting `one`."""
    _watch.sampled.discard(one)


def watched() -> list[Sampled]:
    """Return the objects that gauges count now."""
    return list(_watch.sampled)


def figures() -> dict[str, Any]:
    """Return what this process has counted since its start, and what it has open now."""
    gauges = _watch.sample()
    written = {each.kind: each.value for each in samples(publish_to_write)}
    return {
        "connections": gauges[connections],
        "streams": gauges[streams],
        "operations": gauges[shared_operations] + gauges[own_operations],
        "topics": gauges[topics],
        "heldBytes": gauges[held_bytes],
        "published": _total(events_published),
        "received": _total(events_received),
        "executions": _total(executions),
        "executionsSaved": _total(executions_saved),
        "deliveries": _total(deliveries),
        "sentBytes": _total(sent_bytes),
        "gaps": _total(gaps),
        "slowReadersEnded": _total(slow_readers_ended),
        "lagSeconds": written["_sum"],
        "lagCount": written["_count"],
        "refusals": {
            each.labels[0]: each.value
            for each in samples(_refusals)
            if each.labels and each.kind == "_total"
        },
    }


def _total(counter: Counter) -> float:
    return sum(each.value for each in samples(counter) if each.kind == "_total")


async def endpoint(request: "Request") -> "Response":
    """Answer a scrape by Prometheus, in the format that it accepts.

    Add it with `app.add_route("/metrics", metrics.endpoint)`. It does not ask for a token, so do
    not expose it to the public. Without the extra `metrics`, the response is a 501 that says what
    to install.
    """
    # A process that only publishes uses this module without Starlette.
    from starlette.responses import Response  # noqa: PLC0415

    _watch.sample()
    try:
        body, content_type = exposition(request.headers.get("accept", ""))
    except MissingExtra as missing:
        return Response(f"{missing}\n", 501, media_type="text/plain")
    return Response(body, headers={"content-type": content_type})
