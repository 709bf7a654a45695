"""Limits the rate at which past events are executed for a subject, so that others need not wait."""

import asyncio
from weakref import WeakValueDictionary

from gqlnotify.rate import Rate


class ReplayBudget:
    """Limits the rate of executions for one subject, over all of its documents."""

    def __init__(self, per_second: float) -> None:
        self._rate = Rate(per_second, max(round(per_second), 1))

    async def spend(self) -> None:
        """Count one execution, and wait until it may begin."""
        now = asyncio.get_running_loop().time()
        wait = self._rate.wait(now)
        # Counted before the wait, so that concurrent callers wait one after the other.
        self._rate.count(now)
        if wait > 0:
            await asyncio.sleep(wait)


class ReplayBudgets:
    """The budgets of all subjects. A budget is dropped when no operation uses it."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._by_subject: WeakValueDictionary[str, ReplayBudget] = WeakValueDictionary()

    def of(self, subject: str | None) -> ReplayBudget:
        """Return the budget of `subject`, shared by its connections. For None, return a new one."""
        if subject is None:
            return ReplayBudget(self._per_second)
        budget = self._by_subject.get(subject)
        if budget is None:
            budget = self._by_subject[subject] = ReplayBudget(self._per_second)
        return budget
