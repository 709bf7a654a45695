"""A proxy whose connections a test can cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def port_of(origin: str) -> int:
    return int(origin.partition(":")[2])


class Proxy:
    """A TCP proxy in front of the server at `port`, whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        proxy = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield proxy.sockets[0].getsockname()[1]
        finally:
            self.cut()
            proxy.close()
            await proxy.wait_closed()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server[1]}
        await asyncio.gather(_pump(reader, server[1]), _pump(server[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
