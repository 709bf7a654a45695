"""Begins a subscription at the position that its client asks for, or knows from before."""

from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from gqlnotify.errors import BadUserInput, CursorExpired
from gqlnotify.event import Cursor
from gqlnotify.execution.strawberry_adapter import closing_any
from gqlnotify.topics.resumption import Resumption
from gqlnotify.topics.subscription import Subscription


@dataclass(frozen=True, slots=True)
class Position:
    """Where a subscription is: it has joined its topic, and the next event is after `cursor`."""

    cursor: Cursor
    # Strawberry asks each part of a stream for its errors.
    errors: ClassVar[None] = None


async def begin(
    subscription: Subscription[Any],
    extensions: Mapping[str, Any] | None,
    last_cursor: str | None,
    resumption: Resumption | None,
) -> CursorExpired | None:
    """Start `subscription`. Return the error to tell the client before the first event, if any.

    There is none for a live list, which begins with a snapshot instead.

    Args:
        subscription: what a resolver returned.
        extensions: those of the operation. It resumes after their `after`.
        last_cursor: the cursor of the last event that the client has, if its transport knows. It is
            newer than `after`, which a client repeats unchanged when it reconnects. If it has
            expired, the subscription begins live and the client gets an error first: such a client
            can't ask for anything else, and would repeat a refused request forever.
        resumption: finds the position of a client that sends no cursor in `extensions`. For the
            same reason it is newer than an argument. An expired one is told in the same way.

    Raises:
        BadUserInput: `after` is not a cursor.
        CursorExpired: the history no longer reaches back to `after`.
        NotifyError: see `Subscription.start`.
    """
    after = (extensions or {}).get("after")
    if after is not None and not isinstance(after, str):
        raise BadUserInput("extensions.after must be a cursor, which is a string")
    if after is not None:
        subscription.resume(after)
    unknown = last_cursor is not None and not _resume(subscription, last_cursor)
    if resumption is None or after is not None:
        await subscription.start()
    else:
        await _start_or_continue(subscription, resumption, or_live=last_cursor is not None)
    subscriber = subscription.subscriber
    if subscriber.takes_snapshots:
        if unknown:
            subscriber.skip_gap(CursorExpired("The last event id of the client is not a cursor"))
        return None
    expired = subscriber.take_expired()
    return CursorExpired.but_goes_on() if expired or unknown else None


async def _start_or_continue(
    subscription: Subscription[Any], resumption: Resumption, *, or_live: bool
) -> None:
    """Start, but where the client has got to if it comes back. Then its argument may be too old."""
    resumptions, subscriber = subscription.manager.resumptions, subscription.subscriber
    await subscription.start(or_live=True)
    if subscriber.closed:
        return
    comes_back = await resumptions.find(resumption, subscriber)
    if subscriber.expired and not (comes_back or or_live or subscriber.takes_snapshots):
        raise subscriber.expired
    resumptions.begin(resumption, subscriber)


async def refuse_cursor(source: AsyncIterable[Any], extensions: Mapping[str, Any] | None) -> None:
    """Refuse to resume what an application yields itself: its events can't be read again.

    To begin live would be a gap that the client never learns of.

    Raises:
        BadUserInput: the extensions have an `after`.
    """
    if (extensions or {}).get("after") is None:
        return
    async with closing_any(aiter(source)):
        raise BadUserInput(
            "extensions.after: the results of this subscription have no cursors, so it can't "
            "resume. Subscribe without it"
        )


@contextmanager
def closed_on_failure(subscription: Subscription[Any]) -> Iterator[None]:
    """Leave the topic if the block does not end normally."""
    try:
        yield
    except BaseException:
        subscription.leave()
        raise


def _resume(subscription: Subscription[Any], last_cursor: str) -> bool:
    try:
        subscription.resume(Cursor.parse(last_cursor), or_live=True)
    except BadUserInput:
        return False
    return True
