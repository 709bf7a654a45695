"""The replays of a subject share a budget."""

import asyncio

import pytest

from gqlnotify.execution.replay_budget import ReplayBudget, ReplayBudgets
from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.service import NOTES, SUBSCRIBE, Note, served, texts


async def spend(budget: ReplayBudget, times: int) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(times):
        await budget.spend()
    return loop.time() - began


async def test_a_replay_within_the_budget_does_not_wait() -> None:
    spending = asyncio.ensure_future(spend(ReplayBudget(1000), 1000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert spending.done()


async def test_a_replay_beyond_the_budget_waits() -> None:
    budget = ReplayBudget(100)
    await spend(budget, 100)
    assert await spend(budget, 20) >= 0.15


async def test_replays_that_share_a_budget_wait_for_each_other() -> None:
    budgets = ReplayBudgets(100)
    one, other = budgets.of("alice"), budgets.of("alice")
    await spend(one, 100)
    took = await asyncio.gather(spend(one, 10), spend(other, 10))
    assert max(took) >= 0.15


async def test_another_subject_and_one_without_a_name_have_their_own() -> None:
    budgets = ReplayBudgets(100)
    alice = budgets.of("alice")
    spent = asyncio.ensure_future(spend(alice, 1000))
    await asyncio.sleep(0)
    for budget in (budgets.of("bob"), budgets.of(None), budgets.of(None)):
        spending = asyncio.ensure_future(spend(budget, 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert spending.done()
    assert not spent.done()
    spent.cancel()


async def test_a_budget_is_forgotten_with_its_last_user() -> None:
    budgets = ReplayBudgets(100)
    budget = budgets.of("alice")
    assert list(budgets._by_subject) == ["alice"]
    del budget
    assert list(budgets._by_subject) == []


@pytest.mark.processes
async def test_replayed_events_are_charged_once_to_the_subject_that_has_them_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent: list[ReplayBudget] = []

    async def count(budget: ReplayBudget) -> None:
        spent.append(budget)

    monkeypatch.setattr(ReplayBudget, "spend", count)
    async with served(WebSocketProtocol) as service:
        first = await service.topics.publish(NOTES(name="a"), Note(text="first"))
        await service.publish("a", *(str(n) for n in range(20)))

        async def replay(query: str) -> int:
            before = len(spent)
            async with service.socket() as socket:
                await socket.init()
                variables, after = {"name": "a"}, {"after": str(first)}
                await socket.subscribe("1", query, variables=variables, extensions=after)
                assert await texts(socket, 20) == [str(n) for n in range(20)]
            return len(spent) - before

        assert await replay(SUBSCRIBE) == 20
        assert await replay(SUBSCRIBE) == 0
        assert await replay(SUBSCRIBE + " # another document") == 20
