"""HTTP routes for operators: liveness, readiness and metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from gqlnotify import errors, is_draining, metrics

# Probes usually time out after a few seconds. Our answer, with a reason in the log, comes first.
_PATIENCE = 2.0

logger = logging.getLogger("schema.health")

Check = Callable[[], Awaitable[None]]
Measure = Callable[[], Awaitable[object]]


def health(**checks: Check) -> APIRouter:
    """Return the routes `/healthz` and `/readyz`.

    `/readyz` answers 503 with the name of each check that fails. While the server drains it is 503
    too, from the first signal on, so that a proxy sends no new clients.

    Args:
        checks: async functions, by the name in the answer. They raise if something does not work.
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


def metrics_route(*measures: Measure) -> APIRouter:
    """Return the route `/metrics` for Prometheus.

    Args:
        measures: async functions that update gauges before each answer.
    """
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
        # The route needs no token, so only the log gets the reason.
        reason = error.reason if isinstance(error, errors.NotifyError) else str(error)
        logger.warning("Not ready, the %s: %s", name, reason or type(error).__name__)
        return "unavailable"
    return "ok"
