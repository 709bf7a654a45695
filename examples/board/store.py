"""The tasks, the messages and who is signed in, in SQLite.

A change and its event are one transaction.
"""

import os
import secrets
import sqlite3
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import strawberry
from sqlalchemy import MetaData, create_engine
from sqlalchemy.orm import sessionmaker

from gqlnotify import Topic, errors
from gqlnotify.outbox import outbox_table

T = TypeVar("T")

LATEST = 100
"""How many messages a page shows when it opens."""


@strawberry.enum
class Status(Enum):
    TODO = "todo"
    DOING = "doing"
    DONE = "done"


@strawberry.type
class Task:
    id: UUID
    title: str
    status: Status
    changed_by: str


@strawberry.type
class Message:
    id: UUID
    author: str
    to: str | None  # everyone, if None
    text: str
    sent_at: datetime


TASKS = Topic("board.tasks", Task)
MESSAGES = Topic("board.messages", Message, presence=True)
INBOXES = Topic("board.inbox.<of>", Message)


def inbox(name: str) -> Topic[Message]:
    """Return the topic of the private messages that a person sends and receives."""
    # A hash, because a topic's name has at most 200 characters, all ASCII.
    return INBOXES(of=sha256(name.encode()).hexdigest())


FILE = os.environ.get("BOARD_DATABASE") or Path(__file__).with_name("board.db")

database = sqlite3.connect(FILE, check_same_thread=False)
database.executescript("""
    CREATE TABLE IF NOT EXISTS session (token TEXT PRIMARY KEY, name TEXT);
    CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY, title TEXT, status TEXT, changed_by TEXT);
    CREATE TABLE IF NOT EXISTS chat
        (id TEXT PRIMARY KEY, author TEXT, recipient TEXT, text TEXT, sent_at TEXT);
""")

# What the outbox reads the events with.
metadata = MetaData()
OUTBOX = outbox_table(metadata)
engine = create_engine(f"sqlite:///{FILE}")
metadata.create_all(engine)
sessions = sessionmaker(engine)


def open_session(name: str) -> str:
    token = secrets.token_urlsafe()
    with database:
        database.execute("INSERT INTO session VALUES (?, ?)", [token, name])
    return token


def name_of(token: object) -> str | None:
    if not isinstance(token, str):
        return None
    row = database.execute("SELECT name FROM session WHERE token = ?", [token]).fetchone()
    return row and str(row[0])


def all_tasks() -> list[Task]:
    return [_task(*row) for row in database.execute("SELECT * FROM task ORDER BY rowid")]


def add_task(id_: UUID, title: str, by: str) -> Task:
    """Add a task. Adding it again has no effect."""
    with database:
        database.execute(
            "INSERT OR IGNORE INTO task VALUES (?, ?, ?, ?)",
            [str(id_), title, Status.TODO.value, by],
        )
        task = _read_task(id_)
        _add_event(TASKS, task, event_id=f"added-{id_}")
    return task


def move_task(id_: UUID, status: Status, by: str) -> Task:
    with database:
        database.execute(
            "UPDATE task SET status = ?, changed_by = ? WHERE id = ?", [status.value, by, str(id_)]
        )
        task = _read_task(id_)
        _add_event(TASKS, task, event_id=str(uuid4()))
    return task


def latest_messages() -> list[Message]:
    return _oldest_first(
        "SELECT * FROM chat WHERE recipient IS NULL ORDER BY rowid DESC LIMIT ?", LATEST
    )


def latest_private_messages(name: str) -> list[Message]:
    return _oldest_first(
        """SELECT * FROM chat WHERE recipient = ? OR recipient IS NOT NULL AND author = ?
        ORDER BY rowid DESC LIMIT ?""",
        name,
        name,
        LATEST,
    )


def add_message(id_: UUID, text: str, author: str, to: str | None) -> Message:
    """Add a message, to everyone or to one person. Adding it again has no effect."""
    with database:
        database.execute(
            "INSERT OR IGNORE INTO chat VALUES (?, ?, ?, ?, ?)",
            [str(id_), author, to, text, datetime.now(UTC).isoformat()],
        )
        row = database.execute(
            "SELECT * FROM chat WHERE id = ? AND author = ?", [str(id_), author]
        ).fetchone()
        if row is None:
            raise errors.BadUserInput("id: another person's message has this id")
        message = _message(*row)
        for topic in _topics_of(message):
            _add_event(topic, message, event_id=f"sent-{id_}")
    return message


def _topics_of(message: Message) -> set[Topic[Message]]:
    return {MESSAGES} if message.to is None else {inbox(message.author), inbox(message.to)}


def _oldest_first(query: str, *values: object) -> list[Message]:
    return [_message(*row) for row in database.execute(query, values)][::-1]


def _add_event(topic: Topic[T], value: T, *, event_id: str) -> None:
    database.execute(
        "INSERT INTO gqlnotify_outbox (event_id, topic, payload) VALUES (?, ?, ?)",
        [event_id, topic.name, topic.encode(value).decode()],
    )


def _read_task(id_: UUID) -> Task:
    row = database.execute("SELECT * FROM task WHERE id = ?", [str(id_)]).fetchone()
    if row is None:
        raise errors.BadUserInput("id: there is no task with this id")
    return _task(*row)


def _task(id_: str, title: str, status: str, changed_by: str) -> Task:
    return Task(id=UUID(id_), title=title, status=Status(status), changed_by=changed_by)


def _message(id_: str, author: str, to: str | None, text: str, sent_at: str) -> Message:
    return Message(
        id=UUID(id_), author=author, to=to, text=text, sent_at=datetime.fromisoformat(sent_at)
    )
