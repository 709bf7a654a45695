"""The application of the end-to-end tests, which also tells what is left of its clients."""

import asyncio

from tests.e2e.app import app as app
from tests.e2e.app import topics


@app.get("/left")
async def left() -> dict[str, int]:
    """Return how many tasks run, and how many topics are open."""
    return {"tasks": len(asyncio.all_tasks()), "topics": len(topics._live_topics)}
