"""Sections 2 and 3 of the specification: cursors, and resuming with one."""

import re

from tests.conformance.resume.checks import check_on
from tests.conformance.resume.contract import TRANSPORTS
from tests.conformance.resume.kit import Kit
from tests.conformance.resume.results import expect, same

_CURSOR = re.compile(r"[\x21-\x7e]{1,1024}")


@check_on(*TRANSPORTS, rule="CUR-1", title="each event has a cursor")
async def each_event_has_a_cursor(kit: Kit, transport: str) -> None:
    topic = kit.topic()
    async with kit.subscribed(transport, topic.payload()) as results:
        await topic.heard(results)
        [event] = await results.until(await topic.publish())
    expect(
        isinstance(event.cursor, str) and _CURSOR.fullmatch(event.cursor),
        "extensions.cursor has 1 to 1024 visible ASCII characters",
        dict(event.payload),
    )


@check_on(*TRANSPORTS, rule="CUR-2", title="events have one order, and no two the same cursor")
async def events_have_one_order(kit: Kit, transport: str) -> None:
    topic = kit.topic()
    async with kit.subscribed(transport, topic.payload()) as results:
        await topic.heard(results)
        values = [await topic.publish() for _ in range(5)]
        events = await results.until(values[-1])
    same(topic.told(events), values, "the events in the order of their publication")
    cursors = [str(each.cursor) for each in events]
    expect(len(set(cursors)) == len(cursors), "five different cursors", cursors)


@check_on(*TRANSPORTS, rule="RED-2", title="an event that is new for the client is not marked")
async def a_new_event_is_not_marked(kit: Kit, transport: str) -> None:
    topic = kit.topic()
    async with kit.subscribed(transport, topic.payload()) as results:
        event = await topic.heard(results)
    expect("redelivered" not in event.extensions, "no `redelivered`", dict(event.payload))


@check_on(*TRANSPORTS, rule="AFT-1", title="after a cursor come all later events, each once")
async def after_a_cursor_come_all_later_events(kit: Kit, transport: str) -> None:
    topic = kit.topic()
    async with kit.subscribed(transport, topic.payload()) as results:
        await topic.heard(results)
        values = [await topic.publish() for _ in range(3)]
        first, *later = await results.until(values[-1])
    missed = await topic.publish()
    async with kit.subscribed(transport, topic.payload(after=first.cursor)) as results:
        found = await results.until(missed)
        live = await topic.publish()
        found += await results.until(live)
    same(topic.told(found), [*values[1:], missed, live], f"what came after {values[0]}, unmarked")
    same(
        [each.cursor for each in found[: len(later)]],
        [each.cursor for each in later],
        "the same cursors as at first",
    )


@check_on(*TRANSPORTS, rule="AFT-2", title="`after: null` begins with the next event")
async def null_is_no_cursor(kit: Kit, transport: str) -> None:
    topic = kit.topic()
    payload = topic.payload(extensions={"after": None})
    async with kit.subscribed(transport, payload) as results:
        await topic.heard(results)


@check_on(*TRANSPORTS, rule="AFT-3", title="an `after` that is no cursor is refused")
async def what_is_no_cursor_is_refused(kit: Kit, transport: str) -> None:
    topic = kit.topic()
    for after in (7, "no cursor of this server"):
        async with kit.subscribed(transport, topic.payload(after=after)) as results:
            codes = await results.ended(f"an error for after: {after!r}")
        expect(codes, f"an error for after: {after!r}", "an end without errors")


@check_on(*TRANSPORTS, rule="EXP-1", title="a cursor that has expired ends the operation")
async def an_expired_cursor_ends_the_operation(kit: Kit, transport: str) -> None:
    topic, cursor = await kit.expired()
    async with kit.subscribed(transport, topic.payload(after=cursor)) as results:
        codes = await results.ended("an error CURSOR_EXPIRED that ends the operation")
    same(codes, ["CURSOR_EXPIRED"], "the error")
