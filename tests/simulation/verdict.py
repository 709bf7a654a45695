"""Which promises a simulation has broken, once all faults are over and all clients are well."""

from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from tests.simulation.application import NAMES, UNREADABLE
from tests.simulation.clients import Client
from tests.simulation.conditions import LONG_HISTORY
from tests.simulation.database import broken
from tests.simulation.history import Checker, Got, Violation
from tests.simulation.lists import broken as broken_lists

if TYPE_CHECKING:
    from tests.simulation.run import Simulation


def broken_for_clients(simulation: "Simulation") -> Iterator[Violation]:
    """Yield what the clients have noticed, how the outbox differs, and the live lists."""
    for client in simulation.clients:
        yield from _broken_for(client, simulation)
    yield from _broken_by_outbox(simulation)
    yield from broken_lists(simulation.clients, simulation.truth)


def broken_by_processes(simulation: "Simulation") -> Iterator[Violation]:
    """Yield what the processes have done wrong. All clients must have gone."""
    for what in simulation.left_over():
        yield Violation("nothing left over", what)
    for what in simulation.exceeded:
        yield Violation("bounded memory", what)
    for what in _published_twice(simulation):
        yield Violation("exactly once", what)
    for what in simulation.world.unhandled:
        yield Violation("no unhandled error", what)


def _broken_for(client: Client, simulation: "Simulation") -> Iterator[Violation]:
    events = simulation.truth.of_room(client.room)
    for violation in Checker(events).check(client.log):
        yield Violation(violation.promise, f"{client.name}: {violation.what}")
    if simulation.is_revoked(client):
        yield Violation("rights", f"{client.name} is connected with a revoked token")
    if not simulation.has_caught_up(client):
        yield Violation("progress", f"{client.name} did not get the last event")
    lost = {event.cursor for event in events if event.lost}
    if lost & {entry.cursor for entry in client.log if isinstance(entry, Got)}:
        simulation.world.saw("Redis lost events that a client had received")
    if client.was_told and not _may_have_gaps(simulation):
        yield Violation("no false gap", f"{client.name} was told that it missed events")
    for failure in client.failures:
        yield Violation("every operation goes on", failure)


def _broken_by_outbox(simulation: "Simulation") -> Iterator[Violation]:
    database = simulation.database
    if database is None:
        return
    if waiting := database.waiting:
        yield Violation("progress", f"{waiting} events are still in the outbox")
    committed = database.committed()
    for name in NAMES:
        yield from broken(name, committed, simulation.written, simulation.truth.of_room(name))


def _published_twice(simulation: "Simulation") -> Iterator[str]:
    if _has_short_history(simulation):
        # An id is known for as long as its event is in the history.
        return
    for events in simulation.truth.topics.values():
        kept = [event.payload for event in events if not (event.lost or event.forgotten)]
        kept = [payload for payload in kept if payload != UNREADABLE]
        yield from (payload.decode() for payload, n in Counter(kept).items() if n > 1)


def _may_have_gaps(simulation: "Simulation") -> bool:
    return _has_short_history(simulation) or simulation.redis.lost_at > -inf


def _has_short_history(simulation: "Simulation") -> bool:
    return bool(simulation.conditions.settings["history_length"] < LONG_HISTORY)
