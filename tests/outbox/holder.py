"""A process that holds the lock of an outbox until it is killed."""

import asyncio
import sys

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from gqlnotify.outbox.rows import Rows
from tests.outbox.conftest import OUTBOX


async def main(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with Rows(async_sessionmaker(engine), OUTBOX).batch():
        print("locked", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(sys.argv[1]))
