"""The application of the end-to-end tests, which also reports what its clients left."""

import asyncio

from tests.e2e.app import app as app
from tests.e2e.app import topics


@app.get("/left")
async def left() -> dict[str, int]:
    """Return the numbers of running tasks and of open topics."""
    return {"tasks": len(asyncio.all_tasks()), "topics": len(topics.live_topics.by_name)}
