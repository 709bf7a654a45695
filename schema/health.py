"""What those ask who look after a process: is it alive, may it have clients, what does it do?"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from gqlnotify import errors, is_draining, metrics

_PATIENCE = 2.0

logger = logging.getLogger("schema.health")

Check = Callable[[], Awaitable[None]]
Measure = Callable[[], Awaitable[object]]


def health(**checks: Check) -> APIRouter:
    """Return `/healthz`, and `/readyz`: 503 while one of these checks fails, and which.

    A server that is about to stop is not ready either, from the first signal on.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        if is_draining():
            response.status_code = 503
            return {"server": "draining"}
        states = await asyncio.gather(*(_state(name, check) for name, check in checks.items()))
        found = dict(zip(checks, states, strict=True))
        if set(states) != {"ok"}:
            response.status_code = 503
        return found

    return router


def sight(*measures: Measure) -> APIRouter:
    """Return `/metrics` for Prometheus; before each answer these measure what they know of."""
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    async def scrape(request: Request) -> Response:
        await asyncio.gather(*(_measured(measure) for measure in measures))
        return await metrics.endpoint(request)

    return router


async def _measured(measure: Measure) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            await measure()
    except Exception as error:
        logger.warning("A part can't be measured: %s", error or type(error).__name__)


async def _state(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await check()
    except Exception as error:
        # Anyone may ask, so the answer gives no reason: it stays in the log.
        reason = error.reason if isinstance(error, errors.NotifyError) else str(error)
        logger.warning("Not ready, the %s: %s", name, reason or type(error).__name__)
        return "unavailable"
    return "ok"
