"""`gqlnotify console`: the console of servers that share a broker, in a process of its own."""

import sys
from typing import Annotated

import typer
from fastapi import FastAPI
from pydantic import SecretStr

from gqlnotify.auth import may, verifier_from
from gqlnotify.cli.common import command_settings, fail, failures_reported
from gqlnotify.cli.listening import address_of, bind, new_secret, own_token
from gqlnotify.observability import logs
from gqlnotify.server import process
from gqlnotify.settings import Settings, is_loopback
from gqlnotify.topics.manager import TopicManager

_PATH = "/console"


def console(
    host: Annotated[str, typer.Option(help="The loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free port.")] = 8001,
) -> None:
    """Serve the console for the servers that share a broker.

    Set GQLNOTIFY_BROKER_URL and the other settings as for the servers. It prints an address with a
    token that opens it for a day, and listens on this machine only.
    """
    settings = command_settings()
    if settings.broker_url.startswith("memory:"):
        fail("memory:// exists only within a server, so set GQLNOTIFY_BROKER_URL to a Redis")
    if not is_loopback(host):
        fail(
            f"{host} can be reached from other machines. Listen on 127.0.0.1 and use a tunnel "
            "(ssh -L), or serve the console with GraphQLRouter(console=True)"
        )
    settings = _own(settings)
    sockets = bind(host, port)
    address = address_of(host, sockets)
    # Browsers send no fragment to a server, so the token is in no log.
    typer.echo(f"\n  Console:  {address}{_PATH}#token={own_token(settings, 'operator')}\n")
    sys.stdout.flush()
    config = process.Config(
        _application(settings),
        ws="gqlnotify.server:WebSocketProtocol",
        http="gqlnotify.http_server:HttpProtocol",
        log_config=logs.log_config(settings.log_format, settings.log_level),
    )
    with failures_reported():
        try:
            process.run(config, sockets)
        except process.CannotStart as error:
            fail(f"The console can't start: {error}")


def _own(settings: Settings) -> Settings:
    """Return the settings with a secret of this run, which no server accepts."""
    changes = {
        "allowed_origins": (),
        "drain_window": 0.0,
        "jwks_url": None,
        "jwt_algorithm": "HS256",
        "jwt_audience": None,
        "jwt_issuer": None,
        "jwt_secret": SecretStr(new_secret()),
        "token_cookie": None,
    }
    return settings.model_copy(update=changes)


def _application(settings: Settings) -> FastAPI:
    # The other commands need no Strawberry, whose import takes half a second.
    from gqlnotify.console.mount import console_router  # noqa: PLC0415
    from gqlnotify.router import GraphQLRouter  # noqa: PLC0415

    topics = TopicManager(settings=settings)
    # It is no server, so it is not shown as one.
    topics.survey.only_asks = True
    authenticate = verifier_from(settings)
    assert authenticate is not None
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(
        console_router(
            topics,
            settings=settings,
            authenticate=authenticate,
            may=may,
            make_router=GraphQLRouter,
        ),
        prefix=_PATH,
    )
    return app
