"""Section 4 of the specification: resuming over WebSocket without a cursor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid1, uuid4

from tests.conformance.resume.checks import resume_check
from tests.conformance.resume.kit import Kit
from tests.conformance.resume.results import Skip, expect, same, within
from tests.conformance.resume.websocket import (
    Answer,
    Message,
    Operation,
    Socket,
    bare,
    echo,
    positions_of,
    silent,
)

# A server waits for a second at most.
_BEFORE_THE_LAST_PONG = 0.2


class Client:
    """One operation of a client that knows nothing of cursors, on one socket after the other."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.topic = kit.topic()
        self.id = str(uuid4())
        self.viewer = kit.contract.viewer
        self.more: dict[str, Any] = {}

    @asynccontextmanager
    async def connected(self, answer: Answer = echo) -> AsyncIterator[tuple[Socket, Operation]]:
        """Subscribe on a new socket. It is cut at the end, and the server notices."""
        async with self.kit.socket(self.viewer) as socket:
            socket.answer = answer
            payload = {**self.topic.payload(), **self.more}
            yield socket, await socket.subscribe(payload, id_=self.id)
        await self.kit.pause()

    async def arm(self) -> None:
        """Subscribe, and be cut as soon as the position is known."""
        async with self.connected() as (socket, operation):
            await socket.asked(operation)

    async def gets(self, *expected: str, what: str) -> None:
        """Subscribe again and check what arrives first. Then publish, and expect no more but it."""
        async with self.connected() as (socket, operation):
            await socket.asked(operation)
            live = await self.topic.publish()
            found = await operation.until(live)
        same(self.topic.told(found), [*expected, live], what)


# 4.1 Begin positions


@resume_check("ARM-1", "a ping says where the operation begins")
async def a_ping_says_where_it_begins(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.socket() as socket:
        operation = await socket.subscribe(topic.payload())
        position = positions_of(await socket.asked(operation))[operation.id]
    missed = await topic.publish()
    expect(isinstance(position, str) and position, "a cursor", position)
    async with kit.socket() as socket:
        operation = await socket.subscribe(topic.payload(after=position))
        same(topic.told(await operation.until(missed)), [missed], "what came after this position")


@resume_check("ARM-2", "after this ping no event is lost, answered or not")
async def after_the_first_ping_no_event_is_lost(kit: Kit) -> None:
    for answer in (echo, silent):
        client = Client(kit)
        async with client.connected(answer) as (socket, operation):
            await socket.asked(operation)
        missed = [await client.topic.publish() for _ in range(2)]
        await client.gets(*missed, what="what was published while the client was away, unmarked")


# 4.2 Acknowledging pings


@resume_check("ACK-1", "acknowledging pings have numbers that grow, and name what runs")
async def acknowledging_pings_are_well_formed(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.socket() as socket:
        operations = [await socket.subscribe(topic.payload()) for _ in range(2)]
        for operation in operations:
            await socket.asked(operation)
        value = await topic.publish()
        for operation in operations:
            await operation.until(value)
            await socket.acknowledges(operation)
        pings = [each["payload"]["gqlnotify"] for each in socket.messages if positions_of(each)]
    numbers = [ping.get("ack") for ping in pings]
    expect(
        all(type(number) is int and number > 0 for number in numbers)
        and all(one < other for one, other in pairwise(numbers)),
        "`ack` is a positive integer, each larger than the one before",
        numbers,
    )
    known = {operation.id for operation in operations}
    named = {id_ for ping in pings for id_ in ping["cursors"]}
    expect(named == known, f"only the operations of this connection: {known}", named)
    positions = [position for ping in pings for position in ping["cursors"].values()]
    expect(all(isinstance(each, str) for each in positions), "each position is a text", positions)


@resume_check("ACK-2", "what the client has acknowledged is not sent again")
async def what_is_acknowledged_is_not_sent_again(kit: Kit) -> None:
    client = Client(kit)
    async with client.connected() as (socket, operation):
        await socket.asked(operation)
        for _ in range(2):
            await operation.until(await client.topic.publish())
            await socket.acknowledges(operation)
    await client.gets(what="nothing but the live event")


@resume_check("RED-1", "what was not acknowledged is sent again, marked, with the same cursor")
async def what_is_not_acknowledged_is_sent_again(kit: Kit) -> None:
    client = Client(kit)
    topic = client.topic
    async with client.connected() as (socket, operation):
        await socket.asked(operation)
        known = await topic.publish()
        await operation.until(known)
        await socket.acknowledges(operation)
        socket.answer = silent
        unsure = await topic.publish()
        [sent] = await operation.until(unsure)
        await socket.asked(operation, after=socket.place_of_last(operation))
    missed = await topic.publish()
    async with client.connected() as (socket, operation):
        found = await operation.until(missed)
    same(topic.told(found), [f"again: {unsure}", missed], "first what was not acknowledged")
    same(found[0].cursor, sent.cursor, "the cursor that it had")


@resume_check("ACK-3", "only what the ping said counts, and not what the pong says")
async def only_what_the_ping_said_counts(kit: Kit) -> None:
    client = Client(kit)
    async with client.connected() as (socket, operation):
        first = await socket.asked(operation)
        socket.answer = silent
        unsure = await client.topic.publish()
        [event] = await operation.until(unsure)
        asked = await socket.asked(operation, after=socket.place_of_last(operation))
        number = asked["payload"]["gqlnotify"]["ack"]
        cursors = {operation.id: event.cursor}
        old = first["payload"]["gqlnotify"]["ack"]
        for ack in (old, 0, -1, number + 1000, True, str(number), None, [number]):
            ours = {"ack": ack, "cursors": cursors}
            await socket.send(type="pong", payload={"gqlnotify": ours})
        await socket.heard()
    await client.gets(f"again: {unsure}", what="what no pong has acknowledged")


# 4.3 Pongs


@resume_check("PON-1", "a pong acknowledges the earlier pings too")
async def a_pong_acknowledges_the_earlier_pings_too(kit: Kit) -> None:
    client = Client(kit)
    async with client.connected() as (socket, operation):
        await socket.asked(operation)
        await socket.heard()
        socket.answer = silent
        await operation.until(await client.topic.publish())
        await socket.asked(operation, after=socket.place_of_last(operation))
        another = await socket.subscribe(client.topic.payload())
        await socket.send(**echo(await socket.asked(another)))
        await socket.heard()
    await client.gets(what="nothing but the live event")


@resume_check("PON-2", "pongs without a payload answer the pings in their order")
async def bare_pongs_answer_pings_in_order(kit: Kit) -> None:
    client = Client(kit)
    async with client.connected(bare) as (socket, operation):
        await socket.asked(operation)
        await operation.until(await client.topic.publish())
        await socket.acknowledges(operation)
    await client.gets(what="nothing but the live event")


@resume_check("PON-3", "a pong that nothing asked for makes later bare pongs count for nothing")
async def bare_pongs_of_a_client_that_sends_them_unasked_do_not_count(kit: Kit) -> None:
    client = Client(kit)
    async with client.kit.socket() as socket:
        await socket.send(type="pong")
        await socket.heard()
        socket.answer = bare
        operation = await socket.subscribe(client.topic.payload(), id_=client.id)
        await socket.asked(operation)
        unsure = await client.topic.publish()
        await operation.until(unsure)
        await socket.send(type="pong")
        await socket.heard()
    await kit.pause()
    await client.gets(f"again: {unsure}", what="what no pong has acknowledged")


@resume_check("PON-4", "a bare pong of a client that echoes acknowledges nothing")
async def a_bare_pong_of_a_client_that_echoes_does_not_count(kit: Kit) -> None:
    client = Client(kit)
    async with client.connected() as (socket, operation):
        await socket.asked(operation)
        await socket.heard()
        socket.answer = silent
        unsure = await client.topic.publish()
        await operation.until(unsure)
        await socket.asked(operation, after=socket.place_of_last(operation))
        await socket.send(type="pong")
        await socket.heard()
    await client.gets(f"again: {unsure}", what="what no pong has acknowledged")


@resume_check("PON-5", "a pong with another payload acknowledges nothing, and closes nothing")
async def a_pong_with_another_payload_does_not_count(kit: Kit) -> None:
    client = Client(kit)
    async with client.connected() as (socket, operation):
        await socket.asked(operation)
        socket.answer = silent
        unsure = await client.topic.publish()
        await operation.until(unsure)
        asked = await socket.asked(operation, after=socket.place_of_last(operation))
        ours = asked["payload"]["gqlnotify"]
        for payload in ({}, ours, {"gqlnotify": ours["ack"]}, {"gqlnotify": None}):
            await socket.send(type="pong", payload=payload)
        await socket.heard()
    await client.gets(f"again: {unsure}", what="what no pong has acknowledged")


# 4.4 What is the same operation


@resume_check("RES-1", "another subject does not resume the operation")
async def another_subject_does_not_resume(kit: Kit) -> None:
    if kit.contract.other is None:
        raise Skip("the contract has no second subject")
    client = Client(kit)
    await client.arm()
    await client.topic.publish()
    client.viewer = kit.contract.other
    await client.gets(what="nothing but the live event for another subject")


@resume_check("RES-2", "another document, or other variables, are another operation")
async def another_document_is_another_operation(kit: Kit) -> None:
    for name in ("query", "variables"):
        client = Client(kit)
        await client.arm()
        await client.topic.publish()
        request = client.topic.payload()
        other = {
            "query": f"{request['query']} ",
            "variables": {**request.get("variables", {}), "unused": 1},
        }
        client.more = {name: other[name]}
        await client.gets(what=f"nothing but the live event with another {name}")


@resume_check("RES-3", "an id that is no random UUID is not resumed")
async def only_random_uuids_are_resumed(kit: Kit) -> None:
    for id_ in ("1", str(uuid1())):
        topic = kit.topic()
        async with kit.socket() as socket:
            await topic.heard(await socket.subscribe(topic.payload(), id_=id_))
        await kit.pause()
        await topic.publish()
        async with kit.socket() as socket:
            operation = await socket.subscribe(topic.payload(), id_=id_)
            witness = await socket.subscribe(topic.payload())
            await socket.asked(witness)
            live = await topic.publish()
            await witness.until(live)
            await socket.acknowledges(witness)
            same(topic.told(await operation.until(live)), [live], f"no resumption of the id {id_}")
            named = [each for each in socket.messages if id_ in positions_of(each)]
            same(named, [], f"pings that name the id {id_}")


@resume_check("RES-4", "an operation that the client completed is not resumed")
async def a_completed_operation_is_not_resumed(kit: Kit) -> None:
    client = Client(kit)
    async with client.connected() as (socket, operation):
        await socket.asked(operation)
        await socket.send(type="complete", id=operation.id)
        await socket.heard()
    await client.topic.publish()
    await client.gets(what="nothing but the live event")


@resume_check("RES-5", "a completed operation sends nothing more")
async def a_completed_operation_sends_nothing_more(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.socket() as socket:
        operation, witness = [await socket.subscribe(topic.payload()) for _ in range(2)]
        await socket.asked(operation)
        await socket.asked(witness)
        await socket.send(type="complete", id=operation.id)
        await socket.heard()
        place = len(socket.messages)
        for _ in range(2):
            await witness.until(await topic.publish())
        await socket.heard()
        late = [each for each in socket.messages[place:] if _concerns(each, operation.id)]
    same(late, [], "messages about an operation after its complete")


@resume_check("RES-6", "`extensions.after` takes the place of resuming without a cursor")
async def a_cursor_of_its_own_counts(kit: Kit) -> None:
    client = Client(kit)
    topic = client.topic
    async with client.connected() as (socket, operation):
        await socket.asked(operation)
        first = await topic.publish()
        [event] = await operation.until(first)
        second = await topic.publish()
        await operation.until(second)
        await socket.acknowledges(operation)
    async with kit.socket() as socket:
        payload = topic.payload(after=event.cursor)
        operation = await socket.subscribe(payload, id_=client.id)
        witness = await socket.subscribe(topic.payload())
        await socket.asked(witness)
        live = await topic.publish()
        same(topic.told(await operation.until(live)), [second, live], f"what came after {first}")
        await witness.until(live)
        await socket.acknowledges(witness)
        named = [each for each in socket.messages if client.id in positions_of(each)]
    same(named, [], "pings that name an operation with a cursor of its own")


# 4.5 Resuming


@resume_check("RES-7", "a client that is cut again and again loses nothing")
async def a_client_that_is_cut_often_loses_nothing(kit: Kit) -> None:
    client = Client(kit)
    topic = client.topic
    await client.arm()
    values = [await topic.publish() for _ in range(10)]
    seen: list[str] = []
    for _ in range(3):
        async with client.connected(silent) as (_, operation):
            await operation.next()
        seen += topic.told(operation.all)
    async with client.connected() as (_, operation):
        seen += topic.told(await operation.until(values[-1]))
    got = {told.removeprefix("again: ") for told in seen}
    expect(got == set(values), f"each of {values}", seen)
    unmarked = [told for told in seen if not told.startswith("again: ")]
    expect(len(unmarked) == len(set(unmarked)), "a mark on each event that is sent again", seen)


@resume_check("RES-8", "two connections with one id both get all events")
async def two_connections_with_one_id_both_get_all(kit: Kit) -> None:
    client = Client(kit)
    topic = client.topic
    async with client.connected() as (one, first):
        await one.asked(first)
        async with client.connected() as (other, second):
            await other.asked(second)
            both = await topic.publish()
            for socket, operation in ((one, first), (other, second)):
                same(topic.told(await operation.until(both)), [both], "each gets the event once")
                await socket.acknowledges(operation)
        missed = await topic.publish()
        await first.until(missed)
        await one.acknowledges(first)
        async with client.connected() as (_, second):
            [event] = topic.told([await second.next(f"{missed}, which only one has received")])
            expect(event in {missed, f"again: {missed}"}, missed, event)


# 4.6 Expired positions


@resume_check("EXP-2", "a position that has expired is told in a `next`, and the stream goes on")
async def an_expired_position_is_told(kit: Kit) -> None:
    client = await _expired_client(kit)
    async with client.connected() as (_, operation):
        told = await operation.next("a `next` with the error CURSOR_EXPIRED")
        expect(told.codes == ["CURSOR_EXPIRED"], "the error CURSOR_EXPIRED", dict(told.payload))
        expect(told.payload.get("data", 0) is None, "`data: null`", dict(told.payload))
        expect(isinstance(told.cursor, str), "a new extensions.cursor", dict(told.payload))
        live = await client.topic.publish()
        same(client.topic.told(await operation.until(live)), [live], "live events")
    async with kit.socket() as socket:
        operation = await socket.subscribe(client.topic.payload(after=told.cursor))
        found = client.topic.told(await operation.until(live))
        same(found, [live], "what came after the new cursor")


@resume_check("EXP-3", "a client that has not acknowledged this error is told again")
async def an_expired_position_is_told_until_it_is_acknowledged(kit: Kit) -> None:
    client = await _expired_client(kit)
    for answer in (silent, echo):
        async with client.connected(answer) as (socket, operation):
            told = await operation.next("a `next` with the error CURSOR_EXPIRED")
            same(told.codes, ["CURSOR_EXPIRED"], "the error")
            if answer is echo:
                await socket.acknowledges(operation)
    await client.gets(what="no error once it is acknowledged")


# 4.8 A server that stops


@resume_check(
    "DRN-1", "a server that stops waits for the last pong, and closes with 1012", stops=True
)
async def a_server_that_stops_waits_for_the_last_pong(kit: Kit) -> None:
    topic = kit.topic()
    async with kit.socket() as socket:
        operation = await socket.subscribe(topic.payload())
        await socket.asked(operation)
        await socket.heard()
        socket.answer = silent
        await operation.until(await topic.publish())
        await socket.asked(operation, after=socket.place_of_last(operation))
        place = len(socket.messages)
        await kit.stop()
        asked = await socket.asked(operation, after=place)
        await asyncio.sleep(_BEFORE_THE_LAST_PONG)
        expect(not socket.closed.is_set(), "the close frame after the last pong", "it came before")
        await socket.send(**echo(asked))
        async with within(kit.patience, "a close frame"):
            await socket.closed.wait()
    same(socket.close_code, 1012, "the close code")


async def _expired_client(kit: Kit) -> Client:
    """Return a client whose position has left the history."""
    count = kit.contract.expires_after
    if count is None:
        raise Skip("the contract has no `expires_after`")
    client = Client(kit)
    await client.arm()
    for _ in range(count):
        await client.topic.publish()
    return client


def _concerns(message: Message, id_: str) -> bool:
    return message.get("id") == id_ or id_ in positions_of(message)
