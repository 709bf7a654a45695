"""The promises about frames hold under uvloop as well."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.service import Service, served
from tests.server import test_slow_peers as slow_peers
from tests.server import test_websocket as websocket

pytestmark = pytest.mark.processes
Promise = Callable[[Service], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    "base", [WebSocketProtocol, WebSocketsSansIOProtocol], ids=["direct", "portable"]
)
@pytest.mark.parametrize(
    "promise",
    [
        slow_peers.test_the_output_that_waits_for_a_peer_is_bounded,
        slow_peers.test_the_output_of_small_events_that_waits_for_a_peer_is_bounded,
        slow_peers.test_a_slow_peer_gets_a_burst_of_large_events_completely,
        slow_peers.test_a_fast_generator_waits_for_its_reader,
        websocket.test_results_are_sent_before_the_close_frame_and_nothing_after_it,
        websocket.test_nothing_is_written_after_the_answer_to_the_peers_close,
    ],
)
def test_slow_peers_are_served_under_uvloop(
    promise: Promise, base: type[WebSocketsSansIOProtocol]
) -> None:
    _under_uvloop(promise, base)


@pytest.mark.parametrize(
    "promise",
    [
        websocket.test_a_burst_is_sent_in_one_write_and_in_order,
        websocket.test_two_subscriptions_on_one_connection_share_one_write,
        websocket.test_a_single_frame_is_written_at_once_and_further_ones_together,
        websocket.test_a_single_event_is_sent_without_a_timer,
        slow_peers.test_a_peer_that_caught_up_shares_the_writes_again,
        websocket.test_writing_to_a_connection_that_is_lost_is_harmless,
    ],
)
def test_direct_frames_are_sent_under_uvloop(promise: Promise) -> None:
    _under_uvloop(promise, WebSocketProtocol)


def _under_uvloop(promise: Promise, base: type[WebSocketsSansIOProtocol]) -> None:
    async def keep() -> None:
        async with served(base) as service:
            await promise(service)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(keep())
