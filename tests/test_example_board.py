"""The API of the task board in examples/board. tests/e2e/test_board_page.py tests its page."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.raw import Socket, open_socket
from tests.servers import NO_TLS, ROOT, Server, serving

pytestmark = pytest.mark.processes

BOARD = ROOT / "examples" / "board"

ADD = "mutation ($id: UUID!, $title: String!) { addTask(id: $id, title: $title) { title } }"
MOVE = "mutation ($id: UUID!, $status: Status!) { moveTask(id: $id, status: $status) { title } }"
_TASK = "{ title status changedBy }"
TASKS = f"subscription {{ tasks {{ snapshot {_TASK} change {_TASK} }} }}"
_MESSAGE = "{ author to text }"
INBOX = f"subscription {{ privateMessages {{ snapshot {_MESSAGE} change {_MESSAGE} }} }}"
MESSAGES = f"subscription {{ messages {{ snapshot {_MESSAGE} change {_MESSAGE} }} }}"
SEND = """mutation ($id: UUID!, $text: String!, $to: String) {
    sendMessage(id: $id, text: $text, to: $to) { author to text }
}"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BOARD_DATABASE", str(directory / "board.db"))
        # So that each snapshot has all changes before it.
        settings: Any = {"snapshot_reuse": 0, "presence_grace": 0.1}
        with serving("server:app", directory, "--app-dir", str(BOARD), **settings) as server:
            yield server


def sign_in(board: Server, name: str) -> Any:
    answer = httpx.post(f"{board.http}/sign-in", json={"name": name}, verify=NO_TLS)
    return answer.raise_for_status().json()["token"]


def ask(board: Server, token: str, query: str, **variables: object) -> Any:
    answer = httpx.post(
        f"{board.http}/graphql",
        json={"query": query, "variables": variables},
        headers={"Authorization": f"Bearer {token}"},
        verify=NO_TLS,
    )
    return answer.json()


@asynccontextmanager
async def following(board: Server, token: str, document: str) -> AsyncIterator["Rows"]:
    """Subscribe to a live list, and yield it after its snapshot."""
    async with open_socket(board.ws) as socket:
        await socket.init({"token": token})
        await socket.subscribe("1", document)
        rows = Rows(socket)
        rows.snapshot = (await rows.next())["snapshot"]
        yield rows


class Rows:
    """A live list: what it began with, and what follows."""

    def __init__(self, socket: Socket) -> None:
        self.snapshot: Any = None
        self._socket = socket

    async def next(self) -> Any:
        [result] = (await self._socket.next("1"))["data"].values()
        return result

    async def changes(self, count: int) -> list[Any]:
        """Return this many changes, after which no other may come."""
        changes = [(await self.next())["change"] for _ in range(count)]
        await self._socket.is_silent()
        return changes


async def test_each_change_of_the_list_is_one_event(board: Server) -> None:
    token, task = sign_in(board, " Ann "), str(uuid4())
    async with following(board, token, TASKS) as tasks:
        ask(board, token, ADD, id=task, title="Water the plants")
        ask(board, token, ADD, id=task, title="Water the plants")  # sent again after a cut
        ask(board, token, MOVE, id=task, status="DOING")
        events = await tasks.changes(2)

    told = {"title": "Water the plants", "changedBy": "Ann"}
    assert events == [{**told, "status": "TODO"}, {**told, "status": "DOING"}]
    assert board.trouble == []


async def test_a_change_of_a_process_that_died_after_its_commit_is_an_event(board: Server) -> None:
    change = f"import store, uuid; store.add_task(uuid.UUID('{uuid4()}'), 'Feed the cat', 'Bob')"
    die = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-c", f"{change}\n{die}"]
    # It uses the board's database.
    run = partial(subprocess.run, command, check=False, cwd=BOARD, env=board.environment)
    async with following(board, sign_in(board, "Ann"), TASKS) as tasks:
        done = await asyncio.to_thread(run)
        assert done.returncode == -signal.SIGKILL
        events = await tasks.changes(1)
    assert events == [{"title": "Feed the cat", "changedBy": "Bob", "status": "TODO"}]


async def test_a_private_message_reaches_both_sides_and_nobody_else(board: Server) -> None:
    names = ("Ann", "Иван" + "😀" * 30, "Eve")
    ann, bob, eve = (sign_in(board, name) for name in names)
    message = str(uuid4())
    async with (
        following(board, ann, INBOX) as of_ann,
        following(board, bob, INBOX) as of_bob,
        following(board, eve, INBOX) as of_eve,
        following(board, eve, MESSAGES) as of_everyone,
    ):
        for _ in range(2):  # sent again after a cut
            ask(board, ann, SEND, id=message, text="psst", to=names[1])
        ask(board, eve, SEND, id=str(uuid4()), text="a note", to="Eve")
        ask(board, bob, SEND, id=str(uuid4()), text="hello")
        psst = {"author": "Ann", "to": names[1], "text": "psst"}
        assert await of_ann.changes(1) == await of_bob.changes(1) == [psst]
        assert await of_eve.changes(1) == [{"author": "Eve", "to": "Eve", "text": "a note"}]
        assert [each["text"] for each in await of_everyone.changes(1)] == ["hello"]


async def test_a_list_begins_with_what_is_stored(board: Server) -> None:
    ann = sign_in(board, "Ann with a list of her own")
    ask(board, ann, SEND, id=str(uuid4()), text="psst", to="Bob")
    async with following(board, ann, INBOX) as inbox:
        assert [each["text"] for each in inbox.snapshot] == ["psst"]


async def test_everybody_is_told_who_follows_the_chat_and_who_types(board: Server) -> None:
    ann, bob = sign_in(board, "Ann"), sign_in(board, "Bob")
    async with open_socket(board.ws) as one, open_socket(board.ws) as two:
        await one.init({"token": ann})
        await one.subscribe("1", "subscription { people { name typing } }")
        assert await people(one) == []
        await two.init({"token": bob})
        await two.subscribe("1", "subscription { messages { change { id } } }")
        assert await people(one) == [{"name": "Bob", "typing": False}]
        ask(board, bob, "mutation { setTyping(typing: true) }")
        assert await people(one) == [{"name": "Bob", "typing": True}]
        await two.complete("1")
        assert await people(one) == []
    assert board.trouble == []


async def people(socket: Socket) -> Any:
    return (await socket.next("1"))["data"]["people"]


def test_the_id_of_another_person_s_message_shows_nothing(board: Server) -> None:
    message = str(uuid4())
    ask(board, sign_in(board, "Ann"), SEND, id=message, text="psst", to="Bob")
    answer = ask(board, sign_in(board, "Eve"), SEND, id=message, text="hello")
    assert answer["data"] is None
    assert answer["errors"][0]["message"] == "id: another person's message has this id"


@pytest.mark.parametrize("name", ["", " ", "x" * 41])
def test_a_name_has_1_to_40_characters(board: Server, name: str) -> None:
    answer = httpx.post(f"{board.http}/sign-in", json={"name": name}, verify=NO_TLS)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("document", "variables", "message"),
    [
        (ADD, {"title": " "}, "The text must have 1 to 500 characters"),
        (MOVE, {"status": "DONE"}, "id: there is no task with this id"),
    ],
)
def test_a_change_that_is_refused_says_why(
    board: Server, document: str, variables: dict[str, str], message: str
) -> None:
    answer = ask(board, sign_in(board, "Ann"), document, id=str(uuid4()), **variables)
    assert [error["message"] for error in answer["errors"]] == [message]


def test_nothing_is_shown_without_signing_in(board: Server) -> None:
    answer = ask(board, "a guess", "{ me }")
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
