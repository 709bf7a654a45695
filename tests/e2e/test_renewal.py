"""A fresh token for an open socket: sent with a ping, answered with the pong."""

from time import monotonic, time
from typing import Any

import pytest

from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.servers import Server

pytestmark = pytest.mark.processes

DAY = 86_400
NUMBERS = 'subscription { numbers(name: "renewal") { value } }'


def bearer(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(**claims)}"}


async def renew(socket: Socket, payload: dict[str, Any]) -> dict[str, Any]:
    await socket.send({"type": "ping", "payload": payload})
    message = await socket.receive()
    assert message["type"] == "pong"
    outcome: dict[str, Any] = message["payload"]
    return outcome


async def test_a_renewed_socket_outlives_its_first_token_and_ends_with_the_second(
    locked: Server,
) -> None:
    async with open_socket(locked.ws) as socket:
        await socket.init(bearer(expires_in=3))
        await socket.subscribe("1", NUMBERS)
        ends = int(time() + 6)
        outcome = await renew(socket, bearer(exp=ends))
        assert outcome["renewed"] is True
        assert outcome["expiresAt"].endswith("+00:00")
        began = monotonic()
        close = await socket.closed()
    assert (close.code, close.reason) == (4403, "The token has expired")
    assert monotonic() - began > 3
    assert time() >= ends


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (bearer(subject="mallory", expires_in=DAY), "FORBIDDEN"),
        (bearer(subscribe=["numbers.x"], expires_in=DAY), "FORBIDDEN"),
        (bearer(expires_in=-10), "UNAUTHENTICATED"),
        (bearer(secret="another secret, of somebody else"), "UNAUTHENTICATED"),
        ({"authorization": "Bearer rubbish"}, "UNAUTHENTICATED"),
        ({"authorization": ["Bearer"]}, "UNAUTHENTICATED"),
        ({"authorization": None}, "UNAUTHENTICATED"),
        ({"authorization": ""}, "UNAUTHENTICATED"),
    ],
)
async def test_a_refused_renewal_changes_nothing_and_names_the_reason(
    locked: Server, payload: dict[str, Any], code: str
) -> None:
    async with open_socket(locked.ws) as socket:
        await socket.init(bearer())
        outcome = await renew(socket, payload)
        assert (outcome["renewed"], outcome["extensions"]["code"]) == (False, code)
        assert await socket.query("{ subject }") == {"subject": "alice"}


async def test_later_operations_have_the_rights_of_the_fresh_token(
    locked: Server,
) -> None:
    async with open_socket(locked.ws) as socket:
        await socket.init(bearer(subscribe=["other"]))
        await socket.subscribe("1", NUMBERS)
        [error] = await socket.error("1")
        assert error["extensions"]["code"] == "FORBIDDEN"
        assert (await renew(socket, bearer(subscribe=["other", "numbers.*"])))["renewed"] is True
        await socket.subscribe("2", NUMBERS)
        await socket.subscribe("3", 'mutation { publish(name: "renewal", value: 7) }')
        while (message := await socket.receive()).get("id") != "2":
            pass
        assert message["payload"]["data"] == {"numbers": {"value": 7}}


async def test_without_tokens_a_renewal_is_an_ordinary_ping(server: Server) -> None:
    async with open_socket(server.ws) as socket:
        await socket.init()
        payload = {"authorization": "Bearer anything"}
        assert await renew(socket, payload) == payload
