"""The server's metrics for Prometheus, and the endpoint that serves them.

Counters increase once for each event, batch or connection, never for each delivery. With
`PROMETHEUS_MULTIPROC_DIR` in the environment, each process on a machine serves the metrics of all.
"""

import asyncio
import os
import time
from collections import Counter as Sums
from collections.abc import Iterator, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from gqlnotify.event_loop import OnePerLoop
from gqlnotify.extras import MissingExtra
from gqlnotify.observability.prometheus import DIRECTORY, Counter, Gauge, Histogram, exposition

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


connections = _gauge("connections", "WebSockets that are open.")
streams = _gauge("streams", "Streams over HTTP that are open: SSE and multipart.")
_operations = _gauge("operations", "Operations that run on WebSockets, by how.", ["how"])
shared_operations = _operations.labels("shared")
own_operations = _operations.labels("alone")
groups = _gauge("groups", "Groups of subscriptions that ask the same.")
topics = _gauge("topics", "Topics that this process listens to.")
subscribers = _gauge(
    "readers", "Positions in topics: of groups, and of subscriptions by themselves."
)
held_bytes = _gauge("held_bytes", "What waits to be read by the peers of all WebSockets.")
revocations = Gauge(
    "gqlnotify_revocations",
    "Revocations that are remembered: in each process all of them.",
    # Each process knows the same ones.
    multiprocess_mode="livemax",
)

events_published = Counter("gqlnotify_events_published", "Events that this process published.")
events_received = Counter(
    "gqlnotify_events_received", "Events that the broker brought, counted once for each topic."
)
unreadable_events = Counter(
    "gqlnotify_unreadable_events",
    "Events that this process could not read, which is an error for their subscribers.",
)
executions = Counter("gqlnotify_executions", "Executions of an event.")
executions_saved = Counter(
    "gqlnotify_executions_saved", "Deliveries that needed no execution: others asked the same."
)
deliveries = Counter("gqlnotify_deliveries", "Results of events handed to subscribers.")
sent_bytes = Counter(
    "gqlnotify_sent_bytes", "Messages handed to WebSockets, before compression and framing."
)
publish_to_write = Histogram(
    "gqlnotify_publish_to_write_seconds",
    "From the broker taking an event to the write of its messages, once for each group.",
    buckets=_DELAYS,
)
slow_readers_ended = Counter(
    "gqlnotify_slow_readers_ended", "Connections ended because the peer read too slowly."
)
broker_reconnects = Counter(
    "gqlnotify_broker_reconnects", "Live lines to the broker that were lost and made again."
)
catch_ups = Counter(
    "gqlnotify_catch_ups", "Times that the history brought what the live path had not."
)
gaps = Counter("gqlnotify_gaps", "Times that a topic's history no longer reached back far enough.")
_refusals = Counter(
    "gqlnotify_refusals", "What was refused, and connections ended for a reason.", ["reason"]
)


def refused(reason: str) -> None:
    """Count a refusal: an error's `code`, or the `label` of what closes a connection."""
    _refusals.labels(reason.lower()).inc()
    if reason.lower() == "too_slow":
        slow_readers_ended.inc()


def delivered(messages: int, size: int) -> None:
    """Count results that were handed to WebSockets, and their bytes in all."""
    deliveries.inc(messages)
    sent_bytes.inc(size)


class DeliveryCounter(OnePerLoop):
    """What the groups of one event loop hand over in a tick: counted once, after the writes."""

    def __init__(self) -> None:
        self._messages = self._size = self._saved = 0
        self._published_at: list[float] = []

    def add(self, members: int, events: int, size: int, published_at: Sequence[float]) -> None:
        """Note that each of so many `members` got so many `events`, together of `size` bytes.

        Call it after the hand-over: the write is scheduled by then, and runs before this count.
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
        now = time.time()
        for then in self._published_at:
            # The clocks of two machines differ.
            publish_to_write.observe(max(now - then, 0.0))
        self._messages = self._size = self._saved = 0
        self._published_at = []


Load = Iterator[tuple[Gauge, float]]
"""What something that lives adds to which gauge."""


class Sampled(Protocol):
    """Something that exists for a while and is counted while it does."""

    def load(self) -> Load:
        """Say how much of what it is."""


class _Watch:
    """Looks at all that live: when it is asked, and regularly where another process may be."""

    def __init__(self) -> None:
        self.sampled: WeakSet[Sampled] = WeakSet()
        self._loop: asyncio.AbstractEventLoop | None = None

    def sample(self) -> None:
        """Set the gauges."""
        sums: Sums[Gauge] = Sums()
        for one in self.sampled:
            for gauge, value in one.load():
                sums[gauge] += value  # type: ignore[assignment]  # sizes are whole numbers
        for gauge in _SAMPLED:
            gauge.set(sums[gauge])

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
    """Count `one` from now on, for as long as it lives or until `unwatch`."""
    _watch.sampled.add(one)
    if DIRECTORY in os.environ:
        _watch.sample_regularly()


def unwatch(one: Sampled) -> None:
    """Count it no longer."""
    _watch.sampled.discard(one)


async def endpoint(request: "Request") -> "Response":
    """Answer a scrape by Prometheus, in the format that it accepts.

    To be mounted with `app.add_route("/metrics", metrics.endpoint)`. It asks for no token, so it
    should not be reached from outside. Without the extra `metrics`, nothing is counted, and the
    answer is a 501 that says what to install.
    """
    # A process that only publishes counts as well, and need not load Starlette.
    from starlette.responses import Response  # noqa: PLC0415

    _watch.sample()
    try:
        told, content_type = exposition(request.headers.get("accept", ""))
    except MissingExtra as missing:
        return Response(f"{missing}\n", 501, media_type="text/plain")
    return Response(told, headers={"content-type": content_type})
