import asyncio
import json
import os

from gql import Client, gql
from gql.transport.exceptions import TransportError
from gql.transport.websockets import WebsocketsTransport

NEWS = gql('subscription { notifications(topic: "news") { payload } }')


async def main() -> None:
    transport = WebsocketsTransport(
        f"ws://{os.environ['SERVER']}/graphql",
        init_payload={"Authorization": f"Bearer {os.environ['TOKEN']}"},
    )
    while True:
        try:
            async with Client(transport=transport) as session:
                async for result in session.subscribe(NEWS, get_execution_result=True):
                    NEWS.extensions = {"after": (result.extensions or {}).get("cursor")}
                    print(json.dumps(result.formatted), flush=True)
        except (TransportError, OSError):
            await asyncio.sleep(0.1)


asyncio.run(main())
