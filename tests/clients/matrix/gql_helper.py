import asyncio
import json
import os
from contextlib import aclosing

from gql import Client, gql
from gql.transport.websockets import WebsocketsTransport

from gqlnotify.client import resume

NEWS = gql('subscription { notifications(topic: "news") { payload } }')


def connect() -> Client:
    transport = WebsocketsTransport(
        f"ws://{os.environ['SERVER']}/graphql",
        init_payload={"Authorization": f"Bearer {os.environ['TOKEN']}"},
    )
    return Client(transport=transport)


async def main() -> None:
    async with aclosing(resume(connect, NEWS)) as results:
        async for result in results:
            print(json.dumps(result.formatted), flush=True)


asyncio.run(main())
