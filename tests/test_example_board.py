"""The API of the task board in examples/board. tests/e2e/test_board_page.py tests its page."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
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
CHANGES = """subscription ($after: String!) {
    taskChanged(after: $after) { title status changedBy }
}"""
SEND = """mutation ($id: UUID!, $text: String!, $to: String) {
    sendMessage(id: $id, text: $text, to: $to) { author to text }
}"""
INBOX = "{ privateMessages { cursor items { author to text } } }"
ARRIVING = """subscription ($after: String!) {
    privateMessageSent(after: $after) { author to text }
}"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BOARD_DATABASE", str(directory / "board.db"))
        arguments = ("--app-dir", str(BOARD))
        with serving("server:app", directory, *arguments, presence_grace=0.1) as server:
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


async def test_each_change_of_the_list_is_one_event(board: Server) -> None:
    token, task = sign_in(board, " Ann "), str(uuid4())
    cursor = ask(board, token, "{ tasks { cursor } }")["data"]["tasks"]["cursor"]
    ask(board, token, ADD, id=task, title="Water the plants")
    ask(board, token, ADD, id=task, title="Water the plants")  # sent again after a cut
    ask(board, token, MOVE, id=task, status="DOING")

    async with open_socket(board.ws) as socket:
        await socket.init({"token": token})
        await socket.subscribe("1", CHANGES, variables={"after": cursor})
        events = [(await socket.next("1"))["data"]["taskChanged"] for _ in range(2)]
        await socket.is_silent()

    told = {"title": "Water the plants", "changedBy": "Ann"}
    assert events == [{**told, "status": "TODO"}, {**told, "status": "DOING"}]
    listed = ask(board, token, "{ tasks { items { title status changedBy } } }")
    assert listed["data"]["tasks"]["items"] == [{**told, "status": "DOING"}]
    assert board.trouble == []


async def test_a_change_of_a_process_that_died_after_its_commit_is_an_event(board: Server) -> None:
    token = sign_in(board, "Ann")
    cursor = ask(board, token, "{ tasks { cursor } }")["data"]["tasks"]["cursor"]
    change = f"import store, uuid; store.add_task(uuid.UUID('{uuid4()}'), 'Feed the cat', 'Bob')"
    die = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-c", f"{change}\n{die}"]
    # It uses the board's database.
    run = partial(subprocess.run, command, check=False, cwd=BOARD, env=board.environment)
    done = await asyncio.to_thread(run)
    assert done.returncode == -signal.SIGKILL

    async with open_socket(board.ws) as socket:
        await socket.init({"token": token})
        await socket.subscribe("1", CHANGES, variables={"after": cursor})
        event = (await socket.next("1"))["data"]["taskChanged"]
    assert event == {"title": "Feed the cat", "changedBy": "Bob", "status": "TODO"}


async def test_a_private_message_reaches_both_sides_and_nobody_else(board: Server) -> None:
    names = ("Ann", "Иван" + "😀" * 30, "Eve")
    ann, bob, eve = tokens = [sign_in(board, name) for name in names]
    cursors = [ask(board, each, INBOX)["data"]["privateMessages"]["cursor"] for each in tokens]
    message = str(uuid4())
    for _ in range(2):  # sent again after a cut
        ask(board, ann, SEND, id=message, text="psst", to=names[1])
    ask(board, eve, SEND, id=str(uuid4()), text="a note", to="Eve")

    psst = {"author": "Ann", "to": names[1], "text": "psst"}
    note = {"author": "Eve", "to": "Eve", "text": "a note"}
    for token, cursor, expected in zip(tokens, cursors, [psst, psst, note], strict=True):
        assert ask(board, token, INBOX)["data"]["privateMessages"]["items"] == [expected]
        async with open_socket(board.ws) as socket:
            await socket.init({"token": token})
            await socket.subscribe("1", ARRIVING, variables={"after": cursor})
            assert (await socket.next("1"))["data"] == {"privateMessageSent": expected}
            await socket.is_silent()
    assert ask(board, bob, "{ messages { items { text } } }")["data"]["messages"]["items"] == []


async def test_everybody_is_told_who_follows_the_chat_and_who_types(board: Server) -> None:
    ann, bob = sign_in(board, "Ann"), sign_in(board, "Bob")
    async with open_socket(board.ws) as one, open_socket(board.ws) as two:
        await one.init({"token": ann})
        await one.subscribe("1", "subscription { people { name typing } }")
        assert await people(one) == []
        await two.init({"token": bob})
        await two.subscribe("1", "subscription { messageSent { id } }")
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
    answer = ask(board, "a guess", "{ tasks { cursor } }")
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
