"""The clients of the table. Each is a program that prints every result as a line of JSON."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.servers import CLIENTS

PROGRAMS = CLIENTS / "matrix"
WAYS = ("unchanged", "helper", "by hand")


@dataclass(frozen=True)
class Client:
    """A client of the table, and its program for each of `WAYS` that exists."""

    name: str
    package: str
    unchanged: str
    helper: str | None = None
    by_hand: str | None = None
    resumes: bool = True
    """Whether it loses nothing unchanged."""

    @property
    def programs(self) -> Iterator[tuple[str, Path]]:
        """The ways to use it, and the program of each."""
        for way, file in zip(WAYS, (self.unchanged, self.helper, self.by_hand), strict=True):
            if file:
                yield way, PROGRAMS / file

    @property
    def anchor(self) -> str:
        """The anchor of its section in docs/clients.md, as GitHub spells it."""
        return re.sub(r"[^\w -]", "", self.name.lower()).replace(" ", "-")

    @property
    def version(self) -> str:
        """The installed version."""
        if self.unchanged.endswith(".py"):
            return version(self.package)
        # Node looks for packages in the folders above the program, too.
        places = (PROGRAMS, CLIENTS)
        files = (place / "node_modules" / self.package / "package.json" for place in places)
        found = next(file for file in files if file.exists())
        return str(json.loads(found.read_text())["version"])

    @property
    def lines_by_hand(self) -> int:
        """How many lines of the program by hand are not in the unchanged one."""
        if self.by_hand is None:
            return 0
        return (_lines(self.by_hand) - _lines(self.unchanged)).total()


def command(program: Path) -> Sequence[str]:
    """Return the command line that runs a program."""
    if program.suffix == ".py":
        return [sys.executable, str(program)]
    return ["node", "--import", str(PROGRAMS / "browser.mjs"), str(program)]


def _lines(program: str) -> Counter[str]:
    """Return the lines of a program, but for their indentation and for those of brackets alone."""
    lines = map(str.strip, (PROGRAMS / program).read_text().splitlines())
    return Counter(line for line in lines if re.search(r"\w", line))


CLIENTS_OF_THE_TABLE = (
    Client(
        "graphql-ws",
        "graphql-ws",
        "graphql-ws.mjs",
        helper="graphql-ws-helper.mjs",
        by_hand="graphql-ws-by-hand.mjs",
    ),
    Client(
        "Apollo Client, WebSocket",
        "@apollo/client",
        "apollo-ws.mjs",
        helper="apollo-ws-helper.mjs",
        by_hand="apollo-ws-by-hand.mjs",
    ),
    Client(
        "Apollo Client, multipart",
        "@apollo/client",
        "apollo-multipart.mjs",
        helper="apollo-multipart-helper.mjs",
        by_hand="apollo-multipart-by-hand.mjs",
        resumes=False,
    ),
    Client(
        "urql, WebSocket",
        "@urql/core",
        "urql-ws.mjs",
        helper="urql-ws-helper.mjs",
        by_hand="urql-ws-by-hand.mjs",
    ),
    Client(
        "urql, HTTP",
        "@urql/core",
        "urql-http.mjs",
        helper="urql-http-helper.mjs",
        by_hand="urql-http-by-hand.mjs",
        resumes=False,
    ),
    Client(
        "Relay",
        "relay-runtime",
        "relay.mjs",
        helper="relay-helper.mjs",
        by_hand="relay-by-hand.mjs",
    ),
    Client(
        "graphql-sse, distinct connections",
        "graphql-sse",
        "graphql-sse-distinct.mjs",
        helper="graphql-sse-distinct-helper.mjs",
        by_hand="graphql-sse-distinct-by-hand.mjs",
        resumes=False,
    ),
    Client(
        "graphql-sse, single connection",
        "graphql-sse",
        "graphql-sse-single.mjs",
        helper="graphql-sse-single-helper.mjs",
        by_hand="graphql-sse-single-by-hand.mjs",
    ),
    Client("EventSource", "eventsource", "eventsource.mjs"),
    Client(
        "graphql-tools, WebSocket",
        "@graphql-tools/executor-graphql-ws",
        "executor-ws.mjs",
        helper="executor-ws-helper.mjs",
        by_hand="executor-ws-by-hand.mjs",
    ),
    Client(
        "graphql-tools, HTTP",
        "@graphql-tools/executor-http",
        "executor-http.mjs",
        by_hand="executor-http-by-hand.mjs",
        resumes=False,
    ),
    Client(
        "gql (Python)",
        "gql",
        "gql_client.py",
        helper="gql_helper.py",
        by_hand="gql_by_hand.py",
        resumes=False,
    ),
    Client(
        "websockets (Python)", "websockets", "websockets_client.py", by_hand="websockets_by_hand.py"
    ),
)
