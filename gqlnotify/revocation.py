"""What was revoked: told to every process by way of a topic, and to those whom it concerns."""

import asyncio
import logging
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gqlnotify.auth import Principal, viewing
from gqlnotify.errors import BrokerUnavailable, CursorExpired, TokenRevoked
from gqlnotify.event import RESERVED, Event, Topic
from gqlnotify.reader import Reader
from gqlnotify.settings import Bounds, Settings
from gqlnotify.topics import TopicManager
from gqlnotify.window import Behind

# An application does not start later than this because its broker is slow to tell.
START_SECONDS = 5.0
RETRY_SECONDS = 0.5

logger = logging.getLogger("gqlnotify.revocation")


class Revocation(BaseModel):
    """One token, or all tokens of one subject that were issued up to the time `at`.

    Raises:
        ValueError: it names both, or neither.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    at: float = Field(default_factory=time.time, allow_inf_nan=False)
    subject: str | None = Field(default=None, min_length=1)
    token_id: str | None = Field(
        default=None, min_length=1, validation_alias="tokenId", serialization_alias="tokenId"
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.subject is None) == (self.token_id is None):
            raise ValueError("A revocation names either a subject or a token id")
        return self


REVOCATIONS = Topic(f"{RESERVED}revocations", Revocation)


class Revoked:
    """What is known to be revoked. Bounded as the topic's history is; pure but for the clock."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._subjects = OrderedDict[str, float]()
        self._tokens = OrderedDict[str, float]()

    def add(self, revocation: Revocation) -> None:
        """Take note of `revocation`, and forget what the history no longer remembers."""
        known, name = self._tokens, revocation.token_id
        if revocation.subject is not None:
            known, name = self._subjects, revocation.subject
        assert name is not None
        known[name] = max(known.pop(name, -math.inf), revocation.at)
        self._forget(known)

    def covers(self, principal: Principal) -> bool:
        """Tell whether the principal's token is revoked."""
        if principal.token_id in self._tokens:
            return True
        revoked_at = self._subjects.get(principal.subject)
        if revoked_at is None:
            return False
        # `iat` counts whole seconds: one that was made in the second of the revocation is old.
        return principal.issued_at is None or principal.issued_at <= revoked_at

    def _forget(self, known: OrderedDict[str, float]) -> None:
        since = time.time() - self._bounds.seconds
        while known:
            oldest = next(iter(known))
            if len(known) <= self._bounds.length and known[oldest] >= since:
                return
            del known[oldest]


@dataclass(eq=False, slots=True)
class _Watch:
    principal: Principal
    on_revoked: Callable[[], None]


class Revocations:
    """Follows the topic of revocations for as long as the application runs.

    A revocation reaches every process that shares the broker, also one that starts later, and a
    broker that was away costs none: the topic's history knows it.
    """

    def __init__(self, topics: TopicManager, settings: Settings) -> None:
        self._topics = topics
        self._revoked = Revoked(settings.retention.of(REVOCATIONS.name))
        self._watches: defaultdict[str, set[_Watch]] = defaultdict(set)
        self._following: asyncio.Task[None] | None = None
        self._up_to_date = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to follow, and return once everything is known; or soon, if the broker is slow."""
        self._up_to_date = asyncio.Event()
        self._following = asyncio.create_task(self._follow())
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._up_to_date.wait()
        except TimeoutError:
            logger.warning("The broker has not yet told which tokens are revoked")

    async def close(self) -> None:
        """Stop following."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def revoke(self, *, subject: str | None = None, token_id: str | None = None) -> None:
        """Revoke one token, or all tokens that `subject` has been given until now.

        The application decides who may do this: the running viewer's rights are not asked.

        Raises:
            ValueError: neither or both are named.
            BrokerUnavailable: nothing was revoked, or nobody can tell.
        """
        revocation = Revocation(subject=subject, token_id=token_id)
        with viewing(None):
            await self._topics.publish(REVOCATIONS, revocation)

    def check(self, principal: Principal) -> None:
        """Return if the principal's token is not revoked.

        Raises:
            TokenRevoked: it is.
        """
        if self._revoked.covers(principal):
            raise TokenRevoked("The token was revoked")

    def watch(self, principal: Principal, on_revoked: Callable[[], None]) -> Callable[[], None]:
        """Have `on_revoked` called once if the principal's token is revoked.

        Returns what ends that; it has to be called, and may be called twice.

        Raises:
            TokenRevoked: it is revoked already.
        """
        self.check(principal)
        watch = _Watch(principal, on_revoked)
        self._watches[principal.subject].add(watch)
        return lambda: self._unwatch(watch)

    def _unwatch(self, watch: _Watch) -> None:
        watches = self._watches.get(watch.principal.subject)
        if watches is None:
            return
        watches.discard(watch)
        if not watches:
            del self._watches[watch.principal.subject]

    async def _follow(self) -> None:
        while True:
            try:
                await self._read()
            except CursorExpired:
                # The history has lost or dropped what was next. What is known stays known.
                logger.warning("Reading again from the beginning which tokens are revoked")
            except BrokerUnavailable as error:
                logger.warning("No way to know which tokens are revoked: %s", error)
            except Exception:
                logger.exception("Following the revocations failed")
            else:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        reader = Reader(self._topics, REVOCATIONS.name)
        try:
            await reader.open(await self._topics.oldest(REVOCATIONS))
            while not reader.closed:
                await self._read_on(reader)
        finally:
            reader.close()

    async def _read_on(self, reader: Reader) -> None:
        try:
            event = reader.take()
        except Behind:
            return await reader.refill()
        if event is not None:
            return self._take(event)
        self._up_to_date.set()
        return await reader.wait()

    def _take(self, event: Event) -> None:
        try:
            revocation = REVOCATIONS.decode(event.payload)
        except ValueError:
            logger.warning("The revocation at %s can't be read", event.cursor)
            return
        self._revoked.add(revocation)
        for watch in self._concerned(revocation):
            self._unwatch(watch)
            self._tell(watch)

    def _concerned(self, revocation: Revocation) -> list[_Watch]:
        subject = revocation.subject
        watched: Any = (
            self._watches.values() if subject is None else [self._watches.get(subject, set())]
        )
        return [w for watches in watched for w in watches if self._revoked.covers(w.principal)]

    def _tell(self, watch: _Watch) -> None:
        try:
            watch.on_revoked()
        except Exception:
            logger.exception("Somebody could not be told that a token is revoked")
