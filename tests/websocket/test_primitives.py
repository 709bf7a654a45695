"""The smaller versions of asyncio's `Event` and `Queue`."""

import asyncio

from gqlnotify.websocket.primitives import LightEvent, LightQueue


async def test_waiters_continue_when_the_event_is_set() -> None:
    gate = LightEvent()
    waiting = [asyncio.create_task(gate.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    gate.set()
    await asyncio.gather(*waiting)
    assert gate.is_set()


async def test_waiting_for_a_set_event_returns_at_once() -> None:
    gate = LightEvent(is_open=True)
    await gate.wait()
    gate.clear()
    assert not gate.is_set()


async def test_a_cancelled_waiter_does_not_affect_the_others() -> None:
    gate = LightEvent()
    impatient, patient = asyncio.create_task(gate.wait()), asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    gate.set()
    await patient
    assert impatient.cancelled()


async def test_items_are_taken_in_the_order_in_which_they_were_put() -> None:
    mailbox: LightQueue[int] = LightQueue()
    reading = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    assert mailbox.empty()
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)
    assert await reading == 1
    assert await mailbox.get() == 2
    assert mailbox.empty()


async def test_a_callback_is_called_for_each_item() -> None:
    mailbox: LightQueue[int] = LightQueue()
    called: list[bool] = []
    mailbox.on_put = lambda: called.append(mailbox.empty())
    mailbox.put_nowait(1)
    assert called == [False]
