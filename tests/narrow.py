"""uvicorn with small send buffers: `python -m tests.narrow module:attribute --port 0`.

On the loopback device the kernel takes megabytes for a peer that reads nothing. Here it takes some
kilobytes, as for a peer far away, so that one soon sees what the server does about it.
"""

import argparse
import socket

import uvicorn

from tests.servers import Program

SEND_BUFFER = 32 * 1024

NARROW = Program(
    "tests.narrow {application} --port {port}",
    r"Listening on port (\d+)",
)


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m tests.narrow")
    parser.add_argument("application")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ws", default="auto")
    options = parser.parse_args()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listening.bind(("127.0.0.1", options.port))
        listening.listen(2048)
        config = uvicorn.Config(
            options.application,
            ws=options.ws,
            access_log=False,
            # Only our own code disconnects a peer.
            ws_ping_interval=None,
            timeout_graceful_shutdown=2,
        )
        print(f"Listening on port {listening.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
