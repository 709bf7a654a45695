"""The table of the outbox. Its defaults are the database's own, so plain SQL can insert events."""

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement


def outbox_table(metadata: MetaData, name: str = "gqlnotify_outbox") -> Table:
    """Add the table of the outbox to `metadata`, and return it.

    Columns:
        id: The order of publishing. The database counts it.
        event_id: The broker ignores an event whose id it knows. By default a random one.
        topic: The name of the topic.
        payload: The value, as JSON.
        created_at: The time of the insert.
        error: Why the event can't be published; NULL if nothing is wrong with it.
    """
    return Table(
        name,
        metadata,
        # SQLite counts a primary key only if its type is exactly INTEGER, which has 64 bits there.
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("event_id", Text, nullable=False, server_default=_random_id()),
        Column("topic", Text, nullable=False),
        Column("payload", Text, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now()),
        Column("error", Text),
        # Otherwise SQLite would count from 1 again once the table is empty.
        sqlite_autoincrement=True,
    )


class _random_id(FunctionElement[str]):  # noqa: N801  # a SQL function
    type = Text()
    inherit_cache = True


class _now(FunctionElement[Any]):  # noqa: N801  # a SQL function
    type = DateTime(timezone=True)
    inherit_cache = True


@compiles(_random_id, "postgresql")
def _random_id_postgresql(*_: object, **__: object) -> str:
    return "gen_random_uuid()"


@compiles(_random_id, "sqlite")
def _random_id_sqlite(*_: object, **__: object) -> str:
    return "lower(hex(randomblob(16)))"


@compiles(_now, "postgresql")
def _now_postgresql(*_: object, **__: object) -> str:
    # Not now(), the start of the transaction: a long one would look like a lag.
    return "clock_timestamp()"


@compiles(_now, "sqlite")
def _now_sqlite(*_: object, **__: object) -> str:
    # With the six decimals of SQLAlchemy's format; CURRENT_TIMESTAMP has none.
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
