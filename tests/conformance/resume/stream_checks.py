"""Sections 5 to 7 of the specification: what each kind of HTTP stream adds."""

from uuid import uuid4

from tests.conformance.resume.checks import check
from tests.conformance.resume.kit import Kit
from tests.conformance.resume.results import Skip, expect, same

SSE, SINGLE = "sse", "single-connection"


@check("SSE-1", "the id of each event is its cursor", transport=SSE)
async def the_id_of_each_event_is_its_cursor(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload()) as events:
        await topic.heard(events)
        await events.until(await topic.publish())
        ids = [events.id_of(number) for number in range(len(events.all))]
        same(ids, [each.cursor for each in events.all], "each `id` is the extensions.cursor")


@check("SSE-2", "the first block says where the stream begins, without data", transport=SSE)
async def the_first_block_says_where_the_stream_begins(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload()) as events:
        block = await events.first_block()
    expect(block.get("id") and "data" not in block, "an `id` and no data", block)
    missed = await topic.publish()
    async with kit.events(topic.payload(), last_event_id=block["id"]) as events:
        same(topic.told(await events.until(missed)), [missed], "what came after this `id`")


@check("SSE-3", "the stream says when to reconnect", transport=SSE, required=False)
async def the_stream_says_when_to_reconnect(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload()) as events:
        await topic.heard(events)
        retries = [block["retry"] for block in events.blocks if "retry" in block]
    expect(any(each.isdecimal() for each in retries), "`retry` with milliseconds", events.blocks)


@check("SSE-4", "Last-Event-ID resumes after this event", transport=SSE)
async def last_event_id_resumes(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload()) as events:
        last = await topic.heard(events)
    missed = [await topic.publish() for _ in range(3)]
    async with kit.events(topic.payload(), last_event_id=last.cursor) as events:
        found = await events.until(missed[-1])
        live = await topic.publish()
        found += await events.until(live)
    same(topic.told(found), [*missed, live], "what came after the last event, unmarked")


@check("SSE-5", "Last-Event-ID takes precedence over `after`", transport=SSE)
async def last_event_id_takes_precedence(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload()) as events:
        old = await topic.heard(events)
        [last] = await events.until(await topic.publish())
    missed = await topic.publish()
    payload = topic.payload(after=old.cursor)
    async with kit.events(payload, last_event_id=last.cursor) as events:
        same(topic.told(await events.until(missed)), [missed], "what came after Last-Event-ID")


@check(
    "SSE-6", "an unknown Last-Event-ID is told in a `next`, and the stream goes on", transport=SSE
)
async def an_unknown_last_event_id_is_told(kit: Kit) -> None:
    await _is_told(kit, "no cursor of this server")


@check("SSE-7", "the same for one that has expired", transport=SSE)
async def an_expired_last_event_id_is_told(kit: Kit) -> None:
    topic, cursor = await kit.expired()
    async with kit.events(topic.payload(), last_event_id=cursor) as events:
        told = await events.next("a `next` with the error CURSOR_EXPIRED")
    same(told.codes, ["CURSOR_EXPIRED"], "the error")


@check("SSE-8", "an empty Last-Event-ID is none", transport=SSE)
async def an_empty_last_event_id_is_none(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload(), last_event_id="") as events:
        await topic.heard(events)
        same([code for each in events.all for code in each.codes], [], "errors")


async def _is_told(kit: Kit, last_event_id: str) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload(), last_event_id=last_event_id) as events:
        told = await events.next("a `next` with the error CURSOR_EXPIRED")
        same(told.codes, ["CURSOR_EXPIRED"], "the error")
        same(events.id_of(0), told.cursor, "an `id`, which is the new cursor")
        await topic.heard(events)
        expect(not events.has_ended, "live events", "the stream has ended")


@check("MUL-1", "a client sees the end of each part at once", transport="multipart")
async def the_end_of_each_part_is_seen_at_once(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.parts(topic.payload()) as parts:
        await topic.heard(parts)
        await parts.until(await topic.publish())


@check("SGL-1", "no block of a shared stream has an id", transport=SINGLE)
async def no_block_has_an_id(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.shared_stream() as stream:
        await topic.heard(await stream.subscribe(topic.payload()))
        blocks = [block for block in stream.events.blocks if "id" in block]
    same(blocks, [], "blocks with an `id`")


@check(
    "SGL-2", "an operation that resumes without a cursor marks what it repeats", transport=SINGLE
)
async def what_is_repeated_is_marked(kit: Kit) -> None:
    topic, id_ = kit.topic(), str(uuid4())
    async with kit.shared_stream() as stream:
        results = await stream.subscribe(topic.payload(), id_=id_)
        await topic.heard(results)
        received = topic.told(results.all)
    await kit.pause()
    missed = await topic.publish()
    async with kit.shared_stream() as stream:
        results = await stream.subscribe(topic.payload(), id_=id_)
        await topic.heard(results)
        found = topic.told(results.all)
    if missed not in found and f"again: {missed}" not in found:
        raise Skip("the server does not resume such operations, which is allowed")
    same([each for each in found if each in received], [], "repeated events without a mark")


@check(
    "DRN-2", "a server that stops cuts streams off, without `complete`", transport=SSE, stops=True
)
async def a_server_that_stops_cuts_streams_off(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.events(topic.payload()) as events:
        await topic.heard(events)
        await kit.stop()
        await events.ended("the end of the stream")
        completed = [block for block in events.blocks if block.get("event") == "complete"]
    same(completed, [], "events `complete`")
