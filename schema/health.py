"""What an orchestrator asks: is the process alive, and may it have clients?"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response

_PATIENCE = 2.0

logger = logging.getLogger("schema.health")

Check = Callable[[], Awaitable[None]]


def health(**checks: Check) -> APIRouter:
    """Return `/healthz`, and `/readyz`: 503 while one of these checks fails, and which."""
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        states = await asyncio.gather(*(_state(name, check) for name, check in checks.items()))
        found = dict(zip(checks, states, strict=True))
        if set(states) != {"ok"}:
            response.status_code = 503
        return found

    return router


async def _state(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await check()
    except Exception as error:
        # The answer goes to whoever asks: the reason stays in the log.
        logger.warning("Not ready, the %s: %s", name, error or type(error).__name__)
        return "unavailable"
    return "ok"
