"""Revoked tokens: each process learns of them through a topic, and closes what uses them."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import override

from gqlnotify import clock
from gqlnotify.auth import Principal
from gqlnotify.errors import (
    BrokerUnavailable,
    CursorExpired,
    RevocationsUnavailable,
    TokenIssuedTooSoon,
    TokenLivesTooLong,
    TokenRevoked,
    TooManyRevocations,
)
from gqlnotify.event import RESERVED, Cursor, Event, Topic
from gqlnotify.observability import metrics
from gqlnotify.settings import CLOCK_SKEW, Settings
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.replay_buffer import NotBuffered
from gqlnotify.topics.subscriber import Subscriber

# How long startup and a new connection wait while the broker delivers no revocations.
START_SECONDS = 5.0
RETRY_SECONDS = 0.5
# Log a warning for each new revocation once this share of their history is used.
WARN_AT = 0.5
_FIRST_SWEEP = 1024

logger = logging.getLogger("gqlnotify.revocation")


class Revocation(BaseModel):
    """Revokes one token, or all tokens of one subject that were issued up to the time `at`.

    `until` is the token's expiry, if known. Without it, the revocation lasts for the longest
    lifetime of a token. Both times are seconds since 1970.

    Raises:
        ValueError: It names both a subject and a token, or neither.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    at: float = Field(default_factory=clock.now, allow_inf_nan=False)
    subject: str | None = Field(default=None, min_length=1)
    token_id: str | None = Field(
        default=None, min_length=1, validation_alias="tokenId", serialization_alias="tokenId"
    )
    until: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.subject is None) == (self.token_id is None):
            raise ValueError("A revocation names either a subject or a token id")
        if self.until is not None and self.token_id is None:
            raise ValueError("Only a single token's revocation can end with that token")
        return self


REVOCATIONS = Topic(f"{RESERVED}revocations", Revocation)


class Revoked:
    """The known revocations. Each is kept until its tokens have expired.

    Args:
        longest: The longest lifetime of a token, in seconds; infinity if tokens need not expire.
        now: The clock, in seconds since 1970.
    """

    def __init__(self, longest: float, *, now: Callable[[], float] = clock.now) -> None:
        self._longest = longest
        self._now = now
        # Subject -> the time of its revocation; token id -> the end of its revocation.
        self._subjects: dict[str, float] = {}
        self._tokens: dict[str, float] = {}
        self._sweep_at = _FIRST_SWEEP

    def __len__(self) -> int:
        return len(self._subjects) + len(self._tokens)

    def add(self, revocation: Revocation) -> None:
        """Remember `revocation`."""
        if revocation.subject is not None:
            known, name, value = self._subjects, revocation.subject, revocation.at
        else:
            assert revocation.token_id is not None
            known, name, value = self._tokens, revocation.token_id, self._token_until(revocation)
        known[name] = max(known.get(name, -math.inf), value)
        self._sweep_sometimes()

    def refusal(self, principal: Principal) -> TokenRevoked | None:
        """Return the error to refuse the principal's token with; None if it is not revoked."""
        now = self._now()
        if principal.token_id is not None and self._tokens.get(principal.token_id, -math.inf) > now:
            return TokenRevoked("The token was revoked")
        at = self._subjects.get(principal.subject)
        if at is None or self._subject_until(at) <= now:
            return None
        # `iat` has whole seconds, so a token issued in the second of the revocation is revoked too.
        if principal.issued_at is None or principal.issued_at <= at:
            return TokenRevoked("The token was revoked")
        if principal.issued_at <= at + CLOCK_SKEW:
            return TokenIssuedTooSoon(retry_after=at + CLOCK_SKEW - now)
        return None

    def _subject_until(self, at: float) -> float:
        # The clocks of the revocation and of the token's issuer may both be off by the skew.
        return at + self._longest + 2 * CLOCK_SKEW

    def _token_until(self, revocation: Revocation) -> float:
        if revocation.until is not None:
            return revocation.until + CLOCK_SKEW
        return self._subject_until(revocation.at)

    def _sweep_sometimes(self) -> None:
        # Only once the number has doubled, so that the cost for each revocation stays constant.
        if len(self) < self._sweep_at:
            return
        now = self._now()
        self._subjects = {
            k: at for k, at in self._subjects.items() if self._subject_until(at) > now
        }
        self._tokens = {k: until for k, until in self._tokens.items() if until > now}
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self))


@dataclass(eq=False, slots=True)
class _Watch:
    principal: Principal
    on_revoked: Callable[[], None]
    # All watches by each of their names. In tuples, because most subjects have one connection, and
    # a set takes four times as much.
    watches: "dict[tuple[str, str], tuple[_Watch, ...]]"

    def begin(self) -> None:
        """Add this watch."""
        for name in self.names:
            self.watches[name] = (*self.watches.get(name, ()), self)

    def end(self) -> None:
        """Remove this watch. A second call is harmless."""
        for name in self.names:
            others = tuple(each for each in self.watches.get(name, ()) if each is not self)
            if others:
                self.watches[name] = others
            else:
                self.watches.pop(name, None)

    @property
    def names(self) -> Iterator[tuple[str, str]]:
        """The names by which a revocation can match this token."""
        yield "subject", self.principal.subject
        if self.principal.token_id is not None:
            yield "token", self.principal.token_id


class Revocations(metrics.Sampled):
    """Follows the topic of revocations.

    A revocation reaches every process that shares the broker. A process that starts later, or that
    lost its broker connection, reads it from the topic's history. Following begins with the
    application's lifespan, or with the first `ready` if no lifespan runs, as in a mounted
    application.

    No task runs while there is nothing to read, so an application that is dropped without a
    shutdown has no pending task.
    """

    def __init__(self, topics: TopicManager, settings: Settings) -> None:
        self._topics = topics
        self._settings = settings
        self._revoked = Revoked(settings.longest_life)
        self._watches: dict[tuple[str, str], tuple[_Watch, ...]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscriber: Subscriber | None = None
        self._reading: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        # How many revocations the broker has delivered.
        self._delivered = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to follow, and wait until all revocations are read, within limits.

        If the broker is too slow, this returns earlier, and `ready` raises until they are read.
        """
        try:
            await self.ready()
        except RevocationsUnavailable:
            logger.warning("New connections are refused until all revocations have been read")

    async def ready(self) -> None:
        """Wait until all revocations are read. Begins to follow if that has not begun.

        Readiness probes may call it too. While the broker is away, the known revocations stay in
        force.

        Raises:
            RevocationsUnavailable: The broker delivered nothing for 5 seconds.
        """
        if not self._is_following():
            self._follow()
        # Only the event loop that reads can wait. A caller in another running loop has to retry.
        if not self._known.is_set() and self._loop is asyncio.get_running_loop():
            await self._wait_while_reading()
        if not self._known.is_set():
            raise RevocationsUnavailable("It is not known yet which tokens are revoked")

    async def close(self) -> None:
        """Stop following."""
        metrics.unwatch(self)
        loop, self._loop = self._loop, None
        if self._subscriber is not None:
            self._subscriber.close()
            self._subscriber = None
        reading, self._reading = self._reading, None
        if reading is not None and loop is asyncio.get_running_loop():
            reading.cancel()
            await asyncio.wait([reading])

    async def revoke(
        self,
        *,
        subject: str | None = None,
        token_id: str | None = None,
        expires_at: float | None = None,
    ) -> Cursor:
        """Revoke one token, or all tokens issued to `subject` until now.

        The application decides who may do this: the current viewer's rights are not checked.

        Args:
            subject: Revoke all tokens of this subject.
            token_id: Revoke the token with this `jti`.
            expires_at: The token's `exp`, in seconds since 1970. The revocation ends then. Without
                it, the revocation ends after GQLNOTIFY_JWT_MAX_LIFETIME.

        Raises:
            ValueError: Neither or both are named, or `expires_at` has passed.
            TooManyRevocations: The history is full, so this would remove an earlier revocation.
            BrokerUnavailable: Nothing was revoked, or it is unknown whether it was.
        """
        revocation = Revocation(subject=subject, token_id=token_id, until=expires_at)
        if expires_at is not None and expires_at + CLOCK_SKEW < clock.now():
            raise ValueError("expires_at has passed: it is the token's exp, in seconds since 1970")
        if not self._topics.durable:
            logger.warning(
                "memory:// loses its revocations at a restart: use a Redis broker to keep them"
            )
        await self._require_room()
        return await self._topics.publish_internal(REVOCATIONS, revocation)

    def check(self, principal: Principal) -> None:
        """Check that the principal's token is not revoked, and that it could be revoked.

        Raises:
            TokenRevoked: The token is revoked.
            TokenLivesTooLong: The token could outlive its revocation.
        """
        if _outlives(principal, self._settings.longest_life):
            raise TokenLivesTooLong(self._settings.jwt_max_lifetime)
        refusal = self._revoked.refusal(principal)
        try:
            if refusal is not None:
                raise refusal
        finally:
            # Its traceback refers to this frame: a cycle, which would keep the connection.
            del refusal

    def watch(self, principal: Principal, on_revoked: Callable[[], None]) -> Callable[[], None]:
        """Call `on_revoked` once if the principal's token is revoked.

        Returns a function that ends the watch. The caller has to call it; a second call is
        harmless.

        Raises:
            TokenRevoked: The token is already revoked.
        """
        self.check(principal)
        watch = _Watch(principal, on_revoked, self._watches)
        watch.begin()
        return watch.end

    @override
    def load(self) -> metrics.Load:
        yield metrics.revocations, len(self._revoked)

    async def _require_room(self) -> None:
        oldest = await self._topics.oldest(REVOCATIONS)
        newest = await self._topics.cursor(REVOCATIONS)
        kept, room = newest.seq - oldest.seq, self._settings.retention.of(REVOCATIONS.name).length
        if kept >= room:
            raise TooManyRevocations(room)
        if kept >= WARN_AT * room:
            logger.warning("%d revocations are stored, and there is room for %d", kept, room)

    async def _wait_while_reading(self) -> None:
        # Reading a long history may take longer: give up only if nothing new arrives.
        before = -1
        while not self._known.is_set() and self._delivered > before:
            before = self._delivered
            with suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    await self._known.wait()

    def _is_following(self) -> bool:
        if self._loop is None or not self._loop.is_running():
            return False
        if self._subscriber is not None:
            # Another user of the topic manager may have closed it.
            return not self._subscriber.closed
        return self._is_reading()

    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def _follow(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._known = asyncio.Event()
        self._subscriber = self._reading = None
        metrics.watch(self)
        self._read_soon()

    def _read_soon(self) -> None:
        """Read new revocations. The subscriber calls this on each change."""
        is_closed = self._subscriber is not None and self._subscriber.closed
        if self._loop is None or is_closed or self._is_reading():
            return
        # A new context: the task must not inherit the trace and viewer of the first connection.
        self._reading = self._loop.create_task(self._read_patiently(), context=Context())

    async def _read_patiently(self) -> None:
        while True:
            try:
                return await self._read()
            except CursorExpired:
                # The history has lost or trimmed the next event. The known revocations stay.
                logger.warning("Reading all revocations again from the beginning")
            except BrokerUnavailable as error:
                logger.warning("Can't read the revocations: %s", error.reason)
            except Exception:
                logger.exception("Following the revocations failed")
            subscriber, self._subscriber = self._subscriber, None
            if subscriber is not None:
                subscriber.close()
            await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        subscriber = self._subscriber
        if subscriber is None:
            subscriber = self._subscriber = await self._open()
        while not subscriber.closed:
            try:
                event = subscriber.take()
            except NotBuffered:
                await subscriber.refill()
                # The memory broker never waits: without this, a long history would block the loop.
                await asyncio.sleep(0)
                continue
            if event is None:
                self._known.set()
                return
            self._take(event)

    async def _open(self) -> Subscriber:
        subscriber = Subscriber(self._topics, REVOCATIONS.name, on_wake=self._read_soon)
        try:
            await subscriber.open(await self._topics.oldest(REVOCATIONS))
        except BaseException:
            subscriber.close()
            raise
        return subscriber

    def _take(self, event: Event) -> None:
        self._delivered += 1
        try:
            revocation = REVOCATIONS.decode(event.payload)
        except ValueError:
            logger.warning("Ignored the revocation at %s, which can't be read", event.cursor)
            return
        self._revoked.add(revocation)
        for watch in self._revoked_by(revocation):
            watch.end()
            self._notify(watch)

    def _revoked_by(self, revocation: Revocation) -> list[_Watch]:
        if revocation.subject is not None:
            watched = self._watches.get(("subject", revocation.subject), ())
        else:
            watched = self._watches.get(("token", str(revocation.token_id)), ())
        return [watch for watch in watched if self._revoked.refusal(watch.principal)]

    def _notify(self, watch: _Watch) -> None:
        try:
            watch.on_revoked()
        except Exception:
            logger.exception("A watcher failed when its token was revoked")


def _outlives(principal: Principal, longest: float) -> bool:
    if principal.expires_at is None:
        return False
    latest = clock.now() + CLOCK_SKEW
    born = latest if principal.issued_at is None else min(principal.issued_at, latest)
    return principal.expires_at.timestamp() > born + longest
