"""Keeps the positions of clients in the broker, and finds them when a client comes back."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from itertools import islice
from math import ceil, inf
from typing import NamedTuple

from typing_extensions import override

from gqlnotify import clock
from gqlnotify.backoff import Backoff
from gqlnotify.brokers import Broker
from gqlnotify.brokers.positions import Claim, Claimed, Position
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.event import Cursor
from gqlnotify.observability import metrics
from gqlnotify.settings import Settings
from gqlnotify.topics.live_topic import RETRY_SECONDS
from gqlnotify.topics.resumption import Keeper, Progress, Resumption
from gqlnotify.topics.subscriber import Subscriber

# How long closing waits until the last positions are saved.
CLOSE_SECONDS = 2.0
# How often a running operation saves its position while the broker would keep the last one.
_RENEWALS = 3
# How often each process looks whether Redis has lost the positions, and how long a client that
# comes back after that waits for the process that knows its position to save it again.
_LOOK_SECONDS = 1.0
_SETTLE_SECONDS = 2.0
_LEAST_ENDED = 1000
# Their preparation must not hold the event loop for long.
_CHANGES_AT_ONCE = 200

logger = logging.getLogger("gqlnotify.topics")


class _Found(NamedTuple):
    """A position that a client has got to, and the cursor up to which events may be repeated."""

    claimed: Claimed
    until: Cursor
    is_saved: bool
    """Whether the broker has this position for the new holder."""


class _Waiting(NamedTuple):
    """A claim, and the future of what was found."""

    claim: Claim
    topic: str
    found: "asyncio.Future[_Found | None]"


class Resumptions(Keeper):
    """The positions of one `TopicManager`.

    One task talks to the broker. It saves all positions that have changed, at most once per
    interval, and claims at once what clients who came back are waiting for.

    Args:
        broker: keeps the positions.
        settings: say how long, how often and how many.
    """

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._broker = broker
        self._seconds = settings.auto_resume_seconds
        self._interval = settings.ack_interval
        self._max_ended = max(_LEAST_ENDED, settings.max_connections_per_subject)
        self._running: dict[str, Resumption] = {}
        self._ended: dict[str, deque[tuple[float, Resumption]]] = {}
        self._changed: dict[str, Resumption] = {}
        self._claims: list[_Waiting] = []
        self._memories: dict[str, str] = {}
        self._losses = 0
        self._settled_at = -inf
        self._urgent = asyncio.Event()
        self._flushes: list[asyncio.Future[None]] = []
        self._saved_at = -inf
        self._wait = self._interval
        self._looks = False
        self._work: asyncio.Task[None] | None = None
        self._renews_at = -inf
        self._next_look: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """From now on, notice if the broker forgets positions."""
        if self._next_look is None:
            self._look()

    async def find(self, resumption: Resumption, subscriber: Subscriber) -> bool:
        """Return whether the client comes back. If so, move `subscriber` to where it has got to.

        `subscriber` has joined its topic. If the history no longer reaches back to there, the
        position stays the same, and `subscriber.expired` says so.
        """
        self.watch()
        resumption.read(subscriber.topic)
        claim = Claim(resumption.key, resumption.holder, subscriber.reached_by_client)
        try:
            found = await self._claim(claim, subscriber.topic)
        except asyncio.CancelledError:
            if resumption.is_over:
                # The broker may have saved the claim.
                self.dropped(resumption)
            raise
        resumption.losses = self._losses
        if found is None:
            return False
        if not found.is_saved:
            resumption.save_again()
        acknowledged = found.claimed.position.acknowledged
        expired = await subscriber.rewind(acknowledged, redelivered_until=found.until)
        resumption.expired_at = acknowledged if expired else None
        metrics.auto_resumes.labels("expired" if expired else "resumed").inc()
        return True

    def begin(self, resumption: Resumption, subscriber: Subscriber) -> None:
        """Begin to keep the position of the operation, which `subscriber` knows."""
        if subscriber.closed:
            return
        self._running[resumption.holder] = resumption
        start = subscriber.reached_by_client
        if resumption.expired_at is not None:
            # Until the client has acknowledged what tells it so, it must be told again.
            start = min(start, resumption.expired_at)
        resumption.progress = subscriber.progress = Progress(start)
        subscriber.note_sent()
        resumption.begin(self, start)
        if resumption.losses != self._losses:
            resumption.save_again()

    @override
    def changed(self, resumption: Resumption) -> None:
        self._changed[resumption.holder] = resumption
        self._start()

    @override
    def ended(self, resumption: Resumption) -> None:
        del self._running[resumption.holder]
        self._remember(resumption)
        self.changed(resumption)

    @override
    def dropped(self, resumption: Resumption) -> None:
        self._running.pop(resumption.holder, None)
        self.changed(resumption)

    @override
    async def flush(self) -> None:
        """Save all changes now. Returns when they are saved, or when that has failed once."""
        flushed = asyncio.get_running_loop().create_future()
        self._flushes.append(flushed)
        self._hurry()
        await flushed

    async def close(self) -> None:
        """Save the last changes, if the broker answers in time, and stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.flush()
                while self._changed:
                    # The broker has refused them, or has just lost all positions.
                    await self.flush()
        for each in self._claims:
            # Its subscriber is closed.
            if not each.found.done():
                each.found.set_result(None)
        self.reset()

    def reset(self) -> None:
        """Stop, and forget everything."""
        for stopped in (self._work, self._next_look):
            if stopped is not None:
                stopped.cancel()
        self._work = self._next_look = None
        self._looks = False
        for resumption in self._running.values():
            # Its connection may end later.
            resumption.keeper = None
        self._urgent = asyncio.Event()
        for known in (self._running, self._ended, self._changed, self._claims, self._flushes):
            known.clear()

    async def _claim(self, claim: Claim, topic: str) -> _Found | None:
        found: asyncio.Future[_Found | None] = asyncio.get_running_loop().create_future()
        self._claims.append(_Waiting(claim, topic, found))
        self._hurry()
        return await found

    def _remember(self, resumption: Resumption) -> None:
        """Keep an ended position, but only the latest ones of each subject."""
        now = clock.monotonic()
        ended = self._ended.setdefault(resumption.subject, deque())
        while ended and ended[0][0] <= now:
            ended.popleft()
        if len(ended) >= self._max_ended:
            ended.popleft()[1].drop()
        ended.append((now + self._seconds, resumption))

    def _hurry(self) -> None:
        self._urgent.set()
        self._start()

    def _start(self) -> None:
        if self._work is None:
            # Not in the context of the operation that happens to be the first.
            self._work = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def _run(self) -> None:
        backoff = Backoff(*RETRY_SECONDS)
        while self._changed or self._claims or self._flushes or self._looks:
            await self._until_due()
            try:
                await self._save_and_answer()
            except BrokerUnavailable as error:
                logger.warning("The positions of clients are not saved yet: %s", error.reason)
                self._wait = backoff.next()
            except Exception as error:
                logger.exception("The positions of clients can't be kept")
                self._refuse_claims(error)
                self._wait = backoff.next()
            else:
                backoff.reset()
                self._wait = self._interval
        self._work = None

    async def _save_and_answer(self) -> None:
        try:
            # First, so that a client that comes back finds the latest position of this process.
            if self._wait <= self._interval or clock.monotonic() >= self._saved_at + self._wait:
                await self._save()
        finally:
            # A full Redis saves nothing, but it answers.
            await self._answer_claims()

    def _refuse_claims(self, error: Exception) -> None:
        claims, self._claims = self._claims, []
        for each in claims:
            if not each.found.done():
                each.found.set_exception(error)

    async def _until_due(self) -> None:
        """Wait until the next save may begin, or until a client waits."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._saved_at + self._wait - clock.monotonic()):
                await self._urgent.wait()
        self._urgent.clear()

    async def _save(self) -> None:
        flushes, self._flushes = self._flushes, []
        self._saved_at = clock.monotonic()
        try:
            if self._looks and not self._changed:
                # A broker that does not answer is asked again soon.
                with suppress(BrokerUnavailable):
                    self._look_at(await self._broker.positions.memories())
            self._looks = False
            # What changes meanwhile comes after these, and is due the next time.
            for _ in range(ceil(len(self._changed) / _CHANGES_AT_ONCE)):
                await self._save_some([*islice(self._changed.values(), _CHANGES_AT_ONCE)])
        finally:
            for flushed in flushes:
                if not flushed.done():
                    flushed.set_result(None)

    async def _save_some(self, resumptions: Sequence[Resumption]) -> None:
        changes = [resumption.change() for resumption in resumptions]
        for resumption in resumptions:
            self._changed.pop(resumption.holder, None)
        try:
            saved = await self._broker.positions.save(changes, self._seconds)
        except BaseException:
            for resumption, change in zip(resumptions, changes, strict=True):
                resumption.not_saved(change)
                self._changed.setdefault(resumption.holder, resumption)
            raise
        for resumption in resumptions:
            resumption.saved()
            if resumption.holder in saved.missing:
                resumption.claimed_by_another()
        self._look_at(saved.memories)

    def _look_at(self, memories: Mapping[str, str]) -> bool:
        """Save everything again if a server may have lost it. Return whether one may."""
        # In a cluster, each save reaches other servers.
        known = self._memories
        self._memories = {**known, **memories}
        if not known or self._memories == known:
            return False
        if any(server in known and known[server] != memory for server, memory in memories.items()):
            self._settled_at = clock.monotonic() + _SETTLE_SECONDS
        self._losses += 1
        for resumption in self._running.values():
            resumption.save_again()
        for ended in self._ended.values():
            for _, resumption in ended:
                resumption.save_again()
        return True

    async def _answer_claims(self) -> None:
        waiting = [each for each in self._claims if not each.found.done()]
        # A list of its own: others may come while the broker answers.
        self._claims = list(waiting)
        if not waiting or clock.monotonic() < self._settled_at:
            return
        claims = [each.claim for each in waiting]
        answer = await self._broker.positions.claim(claims, self._seconds)
        if self._look_at(answer.memories):
            # A later turn claims again, when all processes have saved what this server has lost.
            return
        unsaved = self._unsaved()
        claimed = [
            _least(unsaved[claim.key], one) if claim.key in unsaved else one
            for claim, one in zip(claims, answer.claimed, strict=True)
        ]
        heads = await self._heads(waiting, claimed)
        self._claims = self._claims[len(waiting) :]
        for each, saved, one in zip(waiting, answer.claimed, claimed, strict=True):
            if each.found.done():
                continue
            if one is None:
                each.found.set_result(None)
                continue
            until = one.position.sent or heads[each.topic]
            each.found.set_result(_Found(one, until, is_saved=one is saved))
            predecessor = self._running.get(one.predecessor)
            if predecessor is not None:
                predecessor.claimed_by_another()

    def _unsaved(self) -> Mapping[str, Claimed]:
        """Return the positions that the broker does not have yet, by key; those furthest behind."""
        unsaved: dict[str, Claimed] = {}
        for resumption in self._changed.values():
            if resumption.position is not None:
                # Another process may have sent more.
                position = Position(resumption.position.acknowledged)
                one = Claimed(position, resumption.holder)
                unsaved[resumption.key] = _least(one, unsaved.get(resumption.key))
        return unsaved

    async def _heads(
        self, waiting: Sequence[_Waiting], claimed: Sequence[Claimed | None]
    ) -> Mapping[str, Cursor]:
        """Return the newest cursors of the topics of which it is not known what was sent."""
        topics = {
            each.topic
            for each, one in zip(waiting, claimed, strict=True)
            if one is not None and one.position.sent is None
        }
        return {topic: await self._broker.head(topic) for topic in topics}

    def _look(self) -> None:
        """Look now and then whether a server has lost its memory, and renew what would expire."""
        if clock.monotonic() >= self._renews_at:
            self._renew()
        self._looks = True
        self._start()
        seconds = min(_LOOK_SECONDS, self._seconds / _RENEWALS)
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(seconds, self._look, context=Context())

    def _renew(self) -> None:
        """Save again what the broker would forget, and forget what can't be resumed any more."""
        now = clock.monotonic()
        self._renews_at = now + self._seconds / _RENEWALS
        self._ended = {
            subject: ended for subject, ended in self._ended.items() if ended[-1][0] > now
        }
        self._changed = {**self._running, **self._changed}


def _least(one: Claimed, other: Claimed | None) -> Claimed:
    """Return the position that is further behind."""
    if other is None or one.position.acknowledged < other.position.acknowledged:
        return one
    return other
