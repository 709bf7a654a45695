"""A thousand clients of live lists under cuts and losses: `python -m tests.live_list_storm`.

A real server and real sockets. The topic keeps ten events. At the end the list of each client must
equal the database. Whenever all clients come back at once, the database may be read once for each
different list.
"""

import argparse
import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from tests.e2e.raw import MODERN
from tests.e2e.tokens import token
from tests.live_lists import SECRET, TASKS_LIVE, Fold, House, settings
from tests.redis_servers import RedisServer, redis_server
from tests.servers import running
from tests.waiting import wait_until

OWNERS = (None, "ann", "bob", "cyd")
# More than a process buffers, so that a client that was away can't catch up.
TOO_MANY = 300
_QUIET_SECONDS = 240


@dataclass
class Follower:
    """A client that comes back whenever its line is cut."""

    origin: str
    owner: str | None
    sends_cursor: bool
    dice: random.Random
    network: asyncio.Event
    """Set while lines can be made."""
    fold: Fold = field(default_factory=Fold)
    cursor: str | None = None
    id: str = ""
    connection: ClientConnection | None = None

    async def run(self) -> None:
        """Follow the list until cancelled."""
        bearer = token(str(self.dice.random()), secret=SECRET)
        init = {"type": "connection_init", "payload": {"Authorization": f"Bearer {bearer}"}}
        self.reload()
        while True:
            with suppress(OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                async with connect(
                    f"ws://{self.origin}/graphql",
                    subprotocols=[Subprotocol(MODERN)],
                    proxy=None,
                    max_size=None,
                    # A thousand handshakes at once take a while.
                    open_timeout=None,
                ) as self.connection:
                    await self.connection.send(json.dumps(init))
                    await self._follow(self.connection)
            await asyncio.sleep(self.dice.uniform(0, 0.1))
            await self.network.wait()

    def reload(self) -> None:
        """Begin from nothing when the next line is up, as a page that is loaded again."""
        self.fold, self.cursor, self.id = Fold(), None, str(uuid4())

    def cut(self) -> None:
        """Cut the line without a close frame."""
        if self.connection is not None:
            self.connection.transport.abort()

    async def _follow(self, connection: ClientConnection) -> None:
        async for text in connection:
            message = json.loads(text)
            match message["type"]:
                case "connection_ack":
                    await connection.send(json.dumps(self._subscribe()))
                case "ping":
                    await connection.send(json.dumps({**message, "type": "pong"}))
                case "next" | "error" | "complete" if message["id"] != self.id:
                    # It was on its way when the page was loaded again.
                    continue
                case "next":
                    self._take(message["payload"])
                case "error" | "complete":
                    raise AssertionError(f"the operation has ended: {message}")

    def _subscribe(self) -> dict[str, Any]:
        payload: dict[str, Any] = {"query": TASKS_LIVE, "variables": {"owner": self.owner}}
        if self.sends_cursor and self.cursor is not None:
            payload["extensions"] = {"after": self.cursor}
        return {"id": self.id, "type": "subscribe", "payload": payload}

    def _take(self, payload: dict[str, Any]) -> None:
        assert "errors" not in payload, payload
        self.fold.take(payload["data"])
        self.cursor = payload["extensions"]["cursor"]


class Storm:
    """The server, its followers, and what happens to them.

    Attributes:
        loads: how often the database was read in each storm.
    """

    def __init__(self, house: House, followers: list[Follower], dice: random.Random) -> None:
        self.house = house
        self.followers = followers
        self.loads: dict[str, int] = {}
        self.network = followers[0].network
        self._dice = dice

    async def settle(self) -> None:
        """Wait until each list equals the database.

        Raises:
            AssertionError: one does not.
        """
        wanted = {owner: self.house.titles(owner) for owner in OWNERS}
        await wait_until(
            lambda: all(each.fold.rows == wanted[each.owner] for each in self.followers),
            seconds=_QUIET_SECONDS,
        )

    async def come_together(self, name: str, cause: Callable[[], Awaitable[None]]) -> None:
        """Make all followers need a snapshot at once, and count how often the database is read."""
        had = [each.fold for each in self.followers]
        snapshots = [fold.snapshots for fold in had]
        before = self.house.loads
        await cause()
        await wait_until(
            lambda: all(
                each.fold is not fold or fold.snapshots > count
                for each, fold, count in zip(self.followers, had, snapshots, strict=True)
            ),
            seconds=_QUIET_SECONDS,
        )
        await self.settle()
        self.loads[name] = self.house.loads - before

    async def work(self, rounds: int) -> None:
        """Write, cut lines and load pages again at random."""
        for _ in range(rounds):
            for _ in range(self._dice.choice([1, 2, 5, 15])):
                await self.write()
            for follower in self._dice.sample(self.followers, len(self.followers) // 10):
                if self._dice.random() < 0.1:
                    follower.reload()
                follower.cut()
            await asyncio.sleep(self._dice.uniform(0, 0.1))

    async def write(self) -> None:
        """Change, add, give away or delete a row."""
        id_, dice = str(self._dice.randrange(30)), self._dice
        if id_ in self.house.rows and dice.random() < 0.2:
            await self.house.delete(id_)
        else:
            owner = str(dice.choice(OWNERS[1:]))
            await self.house.put(id_, f"task {dice.randrange(1000)}", owner)

    async def miss_too_much(self) -> None:
        """Publish more than anybody can catch up with while all lines are cut."""
        self.network.clear()
        for follower in self.followers:
            follower.cut()
        for _ in range(TOO_MANY):
            await self.write()
        self.network.set()


async def storm(clients: int, *, rounds: int, seed: int, server: RedisServer | None) -> Storm:
    """Run everything, and return what happened."""
    dice = random.Random(seed)
    house = House(
        settings(
            broker_url=server.url if server is not None else "memory://",
            snapshot_reuse=_QUIET_SECONDS,
            max_connections=2 * clients + 100,
            drain_window=0,
        )
    )
    for number in range(20):
        owner = str(dice.choice(OWNERS[1:]))
        house.rows[str(number)] = house.task(str(number), f"task {number}", owner)
    async with running(house.app) as origin, asyncio.TaskGroup() as tasks:
        network = asyncio.Event()
        network.set()
        followers = [
            Follower(origin, dice.choice(OWNERS), dice.random() < 0.5, dice, network)
            for _ in range(clients)
        ]
        happening = Storm(house, followers, dice)
        running_followers: list[asyncio.Task[None]] = []

        async def arrive() -> None:
            running_followers.extend(tasks.create_task(each.run()) for each in followers)

        await happening.come_together("all arrive", arrive)
        await happening.work(rounds)
        await happening.settle()
        await happening.come_together("all have missed too much", happening.miss_too_much)
        if server is not None:

            async def flush() -> None:
                server.ask("FLUSHALL")
                await happening.write()

            await happening.come_together("Redis has lost all", flush)
            await happening.work(rounds)
            await happening.settle()
        for task in running_followers:
            task.cancel()
    return happening


def main() -> None:
    """Run one storm and report it."""
    parser = argparse.ArgumentParser(prog="python -m tests.live_list_storm")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--redis", action="store_true", help="with a real Redis, which loses all")
    options = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(redis_server()) if options.redis else None
        began = monotonic()
        done = asyncio.run(
            storm(options.clients, rounds=options.rounds, seed=options.seed, server=server)
        )
    print(f"seed {options.seed}: {options.clients} clients, {monotonic() - began:.0f} s")
    print("Each list equals the database.")
    for name, loads in done.loads.items():
        print(f"{name}: {loads} reads for {len(OWNERS)} different lists")
    if max(done.loads.values()) > len(OWNERS):
        raise SystemExit("The database was read too often")


if __name__ == "__main__":
    main()
