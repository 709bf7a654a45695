"""The limits for a client, and the answers when it exceeds them."""

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import APP, SECRET
from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.servers import NO_TLS, PATIENCE, Server, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

HELLO = "{ hello }"


@pytest.fixture(scope="module")
def strict(path: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with low limits."""
    with serving(
        APP,
        tmp_path_factory.mktemp("strict"),
        *path,
        jwt_secret=SECRET,
        max_connections=4,
        max_connections_per_subject=2,
        message_rate=5,
        message_burst=20,
        outgoing_max_bytes=300_000,
        send_timeout=0.5,
    ) as server:
        yield server


def bearer(subject: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(subject)}"}


async def can_come_in(server: Server, subject: str) -> bool:
    async with open_socket(server.ws) as socket:
        await socket.send({"type": "connection_init", "payload": bearer(subject)})
        try:
            await socket.receive()
        except Exception:
            return False
        answer: dict[str, str] = await socket.query(HELLO)
        return answer == {"hello": "world"}


@pytest.fixture
async def empty(strict: Server) -> Server:
    """The strict server, without connections."""
    await wait_until(lambda: is_empty(strict), seconds=PATIENCE)
    return strict


async def is_empty(server: Server) -> bool:
    async with httpx.AsyncClient(base_url=server.http, trust_env=False, verify=NO_TLS) as client:
        return bool((await client.get("/connections")).json() == 0)


async def test_a_full_process_asks_the_next_client_to_retry_later(empty: Server) -> None:
    async with (
        open_socket(empty.ws) as one,
        open_socket(empty.ws),
        open_socket(empty.ws),
        open_socket(empty.ws),
    ):
        await one.init(bearer("alice"))
        async with open_socket(empty.ws) as late:
            close = await late.closed()
        assert (close.code, close.reason) == (1013, "Too many connections; try again later")
        assert await one.query(HELLO) == {"hello": "world"}
    await wait_until(lambda: can_come_in(empty, "alice"), seconds=PATIENCE)


async def test_one_subject_can_not_use_all_connections(empty: Server) -> None:
    async with open_socket(empty.ws) as one, open_socket(empty.ws) as two:
        await one.init(bearer("alice"))
        await two.init(bearer("alice"))
        async with open_socket(empty.ws) as three:
            await three.send({"type": "connection_init", "payload": bearer("alice")})
            close = await three.closed()
        assert (close.code, close.reason) == (1013, "Too many connections of this subject")
        assert await can_come_in(empty, "bob")
        assert await two.query(HELLO) == {"hello": "world"}
    await wait_until(lambda: can_come_in(empty, "alice"), seconds=PATIENCE)


async def test_a_client_that_sends_too_fast_is_closed_for_good(empty: Server) -> None:
    async with open_socket(empty.ws) as socket:
        await socket.init(bearer("alice"))
        await socket.send(*({"type": "pong"} for _ in range(200)))
        close = await socket.closed()
    assert (close.code, close.reason) == (1008, "Too many messages")


async def test_a_client_within_the_rate_is_not_limited(empty: Server) -> None:
    async with open_socket(empty.ws) as socket:
        await socket.init(bearer("alice"))
        await socket.send(*({"type": "pong"} for _ in range(15)))
        assert await socket.query(HELLO) == {"hello": "world"}


async def flood(socket: Socket) -> None:
    """Let ten operations send 100 kB each, repeatedly, and read none of it."""
    for number in range(10):
        await socket.subscribe(str(number), "subscription { flood(size: 100000) }")


async def test_a_peer_that_does_not_read_for_too_long_is_closed_and_can_reconnect(
    empty: Server,
) -> None:
    before = await refused(empty, "too_slow")
    async with open_socket(
        empty.ws, max_queue=1, ping_interval=None, compression=None, close_timeout=0.2
    ) as socket:
        await socket.init(bearer("alice"))
        await flood(socket)
        await wait_until(lambda: is_empty(empty), seconds=PATIENCE)
    assert await refused(empty, "too_slow") == before + 1


async def test_refusals_are_counted_by_reason(empty: Server) -> None:
    before = await refused(empty, "unauthenticated")
    async with open_socket(empty.ws) as socket:
        await socket.send({"type": "connection_init", "payload": {"Authorization": "rubbish"}})
        await socket.closed()
    assert await refused(empty, "unauthenticated") == before + 1


async def refused(server: Server, reason: str) -> float:
    async with httpx.AsyncClient(base_url=server.http, trust_env=False, verify=NO_TLS) as client:
        return float((await client.get("/refusals")).json().get(reason, 0))
