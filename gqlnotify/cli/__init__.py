"""The command line: `gqlnotify serve`, `token`, `revoke`, `publish`, `tail`, `trace`, `console`."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from math import ceil
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from starlette.routing import NoMatchFound

from gqlnotify import brokers
from gqlnotify.auth import too_short, verifier_from
from gqlnotify.cli.common import (
    command_settings,
    fail,
    failures_reported,
    invalid_variables,
    printable,
    read_settings,
    refuse_invalid,
    refuse_misspelt_variables,
)
from gqlnotify.cli.console import console
from gqlnotify.cli.listening import address_of, bind, new_secret, own_token, token_of
from gqlnotify.cli.trace import trace
from gqlnotify.event import Cursor, Event, Topic, is_reserved
from gqlnotify.observability import logs, prometheus
from gqlnotify.server import process
from gqlnotify.server.uvicorn_adapter import ImportFromStringError, import_from_string
from gqlnotify.server.websocket import MARGIN_SECONDS
from gqlnotify.settings import Settings, is_loopback
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.publisher import Entry, Publisher
from gqlnotify.topics.revocation import Revocations
from gqlnotify.topics.subscription import UncheckedSubscription

DEFAULT_APP = "schema.app:app"

app = typer.Typer(
    help="GraphQL subscriptions that lose no event.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """How `tail` prints an event."""

    JSON = "json"
    TEXT = "text"


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"gqlnotify {version('gqlnotify')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """GraphQL subscriptions that lose no event."""


@app.command()
def serve(
    application: Annotated[
        str, typer.Argument(metavar="APP", help="The ASGI application, as module:attribute.")
    ] = DEFAULT_APP,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free port.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="The number of server processes.")] = 1,
    reload: Annotated[bool, typer.Option("--reload", help="Restart when code changes.")] = False,
) -> None:
    """Serve an application with uvicorn.

    If no key for tokens is set and the address is a loopback address, this run gets a random secret
    and prints a token.
    """
    sys.path.insert(0, os.getcwd())
    _require_application(application)
    settings = read_settings()
    _require_broker(settings, workers)
    if not is_loopback(host):
        _require_strong_key(settings, host)
    _require_key_that_fits(settings)
    has_key = settings.names_a_key
    if not has_key:
        # In the environment: the processes of --workers and --reload inherit it.
        os.environ["GQLNOTIFY_JWT_SECRET"] = new_secret()
    if reload:
        # A reload after saving a file should not wait for a drain.
        os.environ["GQLNOTIFY_DRAIN_WINDOW"] = "0"
    settings = read_settings()
    path = _graphql_path(_imported(application))
    sockets = bind(host, port)
    port = sockets[0].getsockname()[1]
    # Programs that collect a log of JSON often read stdout too, so print no greeting for people.
    shown = path if settings.log_format == "text" else None
    _greet(address_of(host, sockets), shown, None if has_key else settings)
    config = process.Config(
        application,
        host=host,
        port=port,
        workers=workers,
        reload=reload,
        http="gqlnotify.http_server:HttpProtocol",
        ws="gqlnotify.server:WebSocketProtocol",
        ws_max_size=settings.message_max_bytes,
        timeout_graceful_shutdown=ceil(settings.drain_window + MARGIN_SECONDS),
        log_config=logs.log_config(settings.log_format, settings.log_level),
        # By default uvicorn kills a worker that takes 5 seconds to start. On a busy machine it may.
        timeout_worker_healthcheck=20,
    )
    with _counting_together(workers):
        try:
            process.run(config, sockets)
        except process.CannotStart as error:
            fail(f"{application} can't start: {error}")


@app.command()
def token(
    subject: Annotated[str, typer.Option(help="The subject of the token.")],
    subscribe: Annotated[
        list[str] | None,
        typer.Option(help="A topic to subscribe to, or a pattern with *. Repeatable."),
    ] = None,
    publish: Annotated[
        list[str] | None,
        typer.Option(help="A topic to publish to, or a pattern with *. Repeatable."),
    ] = None,
    presence: Annotated[
        list[str] | None,
        typer.Option(help="A topic, or a pattern with *, whose members it shows. Repeatable."),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="Let it use the console and other tools of operators.")
    ] = False,
    expires_in: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
) -> None:
    """Print a token that is signed with GQLNOTIFY_JWT_SECRET."""
    if not subject.strip():
        fail("The subject is empty. Pass the user or service of the token with --subject")
    rights = {
        "subscribe": subscribe,
        "publish": publish,
        "presence": presence,
        "admin": ["*"] if admin else None,
    }
    granted = {action: patterns for action, patterns in rights.items() if patterns}
    if not any(chain.from_iterable(granted.values())):
        typer.echo(
            "gqlnotify: this token opens no topic. Add topics with --subscribe and --publish",
            err=True,
        )
    try:
        made = token_of(command_settings(), subject, granted, expires_in)
    except ValueError as error:
        fail(str(error))
    typer.echo(made)


@app.command()
def revoke(
    subject: Annotated[
        str | None,
        typer.Option(help="The subject. All its tokens that were made until now are revoked."),
    ] = None,
    token_id: Annotated[str | None, typer.Option(help="The jti of a single token.")] = None,
    expires_at: Annotated[
        float | None,
        typer.Option(help="The token's exp. The revocation is kept until then."),
    ] = None,
) -> None:
    """Revoke the tokens of a subject, or a single token, in every server process.

    Set GQLNOTIFY_BROKER_URL and the other settings as for the servers. Clients that are connected
    with such a token are disconnected. Without --expires-at a revocation is kept for
    GQLNOTIFY_JWT_MAX_LIFETIME.
    """
    if not subject and not token_id:
        fail("Say what to revoke: pass --subject or --token-id")
    if subject and token_id:
        fail("Pass either --subject or --token-id: --subject revokes all tokens of the subject")
    if subject and expires_at is not None:
        fail("--expires-at belongs to a single token: pass it with --token-id")
    settings = command_settings()
    if settings.broker_url.startswith("memory:"):
        fail(
            "With memory:// no server would learn of the revocation, so "
            "set GQLNOTIFY_BROKER_URL to the Redis of the servers"
        )
    with failures_reported():
        typer.echo(asyncio.run(_revoke(settings, subject, token_id, expires_at)))


async def _revoke(
    settings: Settings, subject: str | None, token_id: str | None, expires_at: float | None
) -> Cursor:
    manager = TopicManager(settings=settings)
    try:
        return await Revocations(manager, settings).revoke(
            subject=subject or None, token_id=token_id or None, expires_at=expires_at
        )
    finally:
        await manager.close()


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(help="The topic's name.")],
    value: Annotated[
        str,
        typer.Argument(
            metavar="JSON", help="The value; - publishes each line of the standard input."
        ),
    ],
    event_id: Annotated[
        str | None,
        typer.Option("--id", help="An event id. Publishing again with the same id has no effect."),
    ] = None,
    application: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="APP", help="Check the value against a topic of this application."
        ),
    ] = None,
) -> None:
    """Publish to a topic and print the cursor of the event.

    It uses the broker at GQLNOTIFY_BROKER_URL and needs no running server. With --app
    module:attribute it refuses a value that the application's topic can't read.
    """
    if value == "-" and event_id is not None:
        fail("One event id can't be shared by all lines of the input. Leave --id out")
    lines: Any = sys.stdin if value == "-" else [value]
    declared = None if application is None else _declared_topic(application, topic)
    with failures_reported(), Publisher(settings=command_settings()) as publisher:
        entries = (_entry(topic, declared, line, event_id) for line in lines)
        for cursor in publisher.publish_many_sync(entries):
            typer.echo(cursor)


@app.command()
def tail(
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC...", help="The topics' names.")],
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Begin after this cursor instead of now.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="One JSON object per line, or text for people.")
    ] = Format.JSON,
) -> None:
    """Print the events of topics as they arrive, one per line.

    It continues after failures of the broker and misses no event. If it might have missed one, it
    ends with status 3.
    """
    names = list(dict.fromkeys(topics))
    if after is not None and len(names) > 1:
        fail("--after is a cursor of one topic. Pass only that topic")
    settings = command_settings()
    if settings.broker_url.startswith("memory:"):
        fail("memory:// exists only within a server, so set GQLNOTIFY_BROKER_URL to a Redis")
    with failures_reported(), suppress(KeyboardInterrupt):
        asyncio.run(_tail(settings, names, after, form))


app.command()(trace)
app.command()(console)


async def _tail(settings: Settings, names: list[str], after: str | None, form: Format) -> None:
    manager = TopicManager(settings=settings)
    try:
        await asyncio.gather(*(_follow(manager, name, after, form) for name in names))
    finally:
        await manager.close()


async def _follow(manager: TopicManager, name: str, after: str | None, form: Format) -> None:
    topic: Topic[Any] = Topic(name, Any)
    after = after or await manager.cursor(topic)
    typer.echo(f"Following {name} after {after}", err=True)
    line = _json_line if form is Format.JSON else _text_line
    async for text in UncheckedSubscription(manager, topic, after=after).map(line):
        typer.echo(text)


def _entry(name: str, declared: Topic[Any] | None, line: str, event_id: str | None) -> Entry:
    value = _json(line)
    if declared is None:
        return name, value, event_id
    try:
        return declared, declared.decode(line.encode()), event_id
    except ValueError as error:
        fail(f"{line.strip()[:80]!r} is not an event of {name!r}: {error}")


def _declared_topic(application: str, name: str) -> Topic[Any]:
    """Return the topic with this name: an attribute of a module that importing APP has loaded."""
    sys.path.insert(0, os.getcwd())
    _require_application(application)
    module_name = application.partition(":")[0]
    try:
        # Only the module. Its attribute may build the application, and here its settings may be
        # missing.
        import_module(module_name)
    except Exception as error:
        fail(f"{module_name} can't be imported: {type(error).__name__}: {error}")
    attributes = (x for module in [*sys.modules.values()] for x in [*vars(module).values()])
    topics = [topic for topic in attributes if isinstance(topic, Topic)]
    # A topic with exactly this name goes before a family with a parameter that also matches.
    members = [topic for topic in topics if topic.name == name] or [
        member for topic in topics if (member := topic.member(name)) is not None
    ]
    if not members:
        known = ", ".join(sorted({topic.name for topic in topics if not is_reserved(topic.name)}))
        fail(f"No module of {application} has a topic {name!r}. Its topics: {known or 'none'}")
    if any(member != members[0] for member in members):
        fail(f"Several topics of {application} have the name {name!r} and different types")
    return members[0]


def _json_line(value: Any, event: Event) -> str:
    shown = {"topic": event.topic, "cursor": event.cursor, "id": event.id, "payload": value}
    return json.dumps(shown, ensure_ascii=False)


def _text_line(value: Any, event: Event) -> str:
    when = datetime.fromtimestamp(event.published_at or time.time()).astimezone()
    payload = printable(json.dumps(value, ensure_ascii=False))
    return f"{when:%Y-%m-%d %H:%M:%S}  {event.topic}  {event.cursor}  {payload}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"{text.strip()[:80]!r} is not JSON: {error}")


def _require_application(application: str) -> None:
    module, _, attribute = application.partition(":")
    if not module or not attribute:
        fail(f"{application!r} is not the name of an application. Write it as module:attribute")
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        fail(
            f"There is no module {module!r} in {os.getcwd()}. "
            "Pass your application: gqlnotify serve module:attribute"
        )


def _require_broker(settings: Settings, workers: int) -> None:
    try:
        brokers.from_settings(settings)
    except ValueError as error:
        fail(str(error))
    if workers > 1 and settings.broker_url.startswith("memory:"):
        fail(
            f"{workers} workers can't share events over memory://: each would have its own. "
            "Set GQLNOTIFY_BROKER_URL to a Redis, or use one worker"
        )


def _require_key_that_fits(settings: Settings) -> None:
    try:
        verifier_from(settings)
    except ValueError as error:
        fail(str(error))


@contextmanager
def _counting_together(workers: int) -> Iterator[None]:
    """Let each worker answer a scrape of the metrics for all workers."""
    if workers == 1 or prometheus.DIRECTORY in os.environ:
        yield
        return
    with TemporaryDirectory(prefix="gqlnotify-") as directory:
        os.environ[prometheus.DIRECTORY] = directory
        try:
            yield
        finally:
            del os.environ[prometheus.DIRECTORY]


def _require_strong_key(settings: Settings, host: str) -> None:
    if not settings.names_a_key:
        fail(
            f"{host} can be reached from other machines, but GQLNOTIFY_JWT_SECRET is not set. "
            "Set it to a long random string, the same for every server process"
        )
    short = too_short(settings)
    if short is not None:
        fail(f"{host} can be reached from other machines. {short}")


def _greet(address: str, path: str | None, own: Settings | None) -> None:
    """Print the address of GraphiQL. With `own`, whose secret is of this run, print a token too."""
    if own is None:
        if path is not None:
            typer.echo(f"\n  GraphiQL:  {address}{path}\n")
    else:
        made = own_token(own, "developer")
        # Browsers send no fragment to a server, so the token is in no log.
        typer.echo(
            f"\n  GraphiQL:  {address}{path or ''}#token={made}\n\n"
            "  GQLNOTIFY_JWT_SECRET is not set, so this run has a random secret. The address has\n"
            "  a token that opens every topic for a day. Other clients send it as a header:\n\n"
            f'  {{"Authorization": "Bearer {made}"}}\n'
        )
    sys.stdout.flush()


def _imported(application: str) -> Any:
    """Import and return the application; None if there is a mistake in its code."""
    try:
        import_module(application.partition(":")[0])
        # Only after the import are all settings classes of the application known.
        refuse_misspelt_variables()
        return import_from_string(application)
    except process.MENDABLE as error:
        invalid = invalid_variables(error) if isinstance(error, ValidationError) else {}
        # The error may also be about another model than the application's settings.
        if invalid and invalid.keys() <= os.environ.keys():
            refuse_invalid(invalid)
        fail(f"{application} can't start: {process.one_line(error)}")
    except (ImportFromStringError, AttributeError, LookupError):
        # The server will import it again and log the traceback.
        return None


def _graphql_path(application: Any) -> str | None:
    """Return the path at which a FastAPI application serves GraphQL, or None if it is unknown."""
    try:
        return str(application.url_path_for("handle_http_get"))
    except (AttributeError, NoMatchFound):
        # Another framework, a mounted router, or an application that failed to import.
        return None
