import asyncio
import json
import os
from typing import Any
from uuid import uuid4

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

PROTOCOL = Subprotocol("graphql-transport-ws")
URL = f"ws://{os.environ['SERVER']}/graphql"
INIT = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
NEWS: dict[str, Any] = {
    "query": 'subscription { notifications(topic: "news") { payload } }',
    "extensions": {},
}
ID = str(uuid4())  # the same for each connection


async def main() -> None:
    async for socket in connect(URL, subprotocols=[PROTOCOL]):
        try:
            await socket.send(json.dumps({"type": "connection_init", "payload": INIT}))
            async for text in socket:
                message = json.loads(text)
                match message["type"]:
                    case "connection_ack":
                        news = {"id": ID, "type": "subscribe", "payload": NEWS}
                        await socket.send(json.dumps(news))
                    case "ping":
                        await socket.send(json.dumps({**message, "type": "pong"}))
                    case "next":
                        NEWS["extensions"]["after"] = message["payload"]["extensions"]["cursor"]
                        print(json.dumps(message["payload"]), flush=True)
        except ConnectionClosed:
            pass  # connect again


asyncio.run(main())
