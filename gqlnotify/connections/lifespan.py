"""The lifespan of a router: its topics are open, and its revocations are known."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from starlette.types import Lifespan

from gqlnotify.server_settings import ServerSettings
from gqlnotify.settings import Settings
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.revocation import Revocations


def lifespan_of(
    settings: Settings,
    topics: TopicManager | None,
    revocations: Revocations | None,
    inner: Lifespan[Any],
    *,
    auto_resume: bool = False,
) -> Lifespan[Any]:
    """Return a lifespan in which the topics are open, around the lifespan `inner`."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        tell_the_server(settings)
        opened = nullcontext() if topics is None else topics.held_open()
        async with opened, revocations or nullcontext(), inner(app) as state:
            if auto_resume and topics is not None:
                # Before the first client: what Redis had then can't be lost without notice.
                topics.resumptions.watch()
            yield state

    return lifespan


def tell_the_server(settings: Settings) -> None:
    """Pass the settings of a router to the server of this event loop.

    Some servers run no lifespan, and Starlette runs none of a mounted application, so call this
    for each request too.
    """
    ServerSettings.of(asyncio.get_running_loop()).add(settings)
