"""Parses a broker URL. Pure: no I/O."""

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from gqlnotify.brokers.redis.redis_adapter import parse_url

Kind = Literal["server", "sentinel", "cluster"]

SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True)
class Address:
    """Where Redis is: one server, the master that Sentinel names, or a cluster."""

    kind: Kind
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    tls: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse a broker URL.

        - One server: `redis://`, `rediss://` (TLS) and `unix://`, as in redis-py.
        - Sentinel: `redis+sentinel://[user:password@]host:port,host:port/service[/db]`.
        - A cluster: `redis+cluster://[user:password@]host:port,host:port`.

        `rediss+sentinel` and `rediss+cluster` use TLS. A query contains redis-py's options.

        Raises:
            ValueError: The URL has another form. The message contains no password.
        """
        _check_credentials(url)
        known = urlsplit(url).scheme
        if known not in SCHEMES:
            schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise ValueError(f"{known}:// is not supported: use one of {schemes}")
        scheme, _, kind = known.partition("+")
        if not kind:
            _check_database(url)
            return cls("server", url)
        if kind == "sentinel":
            return cls._many("sentinel", scheme, url)
        return cls._many("cluster", scheme, url)

    @classmethod
    def _many(cls, kind: Kind, scheme: str, url: str) -> "Address":
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        service, _, db = unquote(parts.path.strip("/")).partition("/")
        if kind == "sentinel" and not service:
            raise ValueError(f"{parts.scheme}:// needs the service's name: host:port/service")
        if kind == "cluster" and service.strip("0"):
            raise ValueError("A Redis cluster has only the database 0: remove the path of the URL")
        # With one host, the rest is a URL that redis-py can parse.
        one = urlunsplit((scheme, f"{credentials}@host", f"/{db}", parts.query, ""))
        _check_database(one)
        options = dict(parse_url(one))
        for superfluous in ("host", "connection_class"):
            options.pop(superfluous, None)
        return cls(
            kind,
            url,
            tuple(_host(text, _PORTS[kind]) for text in hosts.split(",")),
            service,
            scheme == "rediss",
            tuple(options.items()),
        )


def _check_credentials(url: str) -> None:
    # If a password contains one of these characters, a part of it would be parsed as the host or
    # the path, and later messages would repeat it.
    if "@" in url and "@" not in urlsplit(url).netloc:
        raise ValueError(
            "The URL of the broker can't be parsed. In a password, write / ? # @ as %2F %3F %23 %40"
        )


def _check_database(url: str) -> None:
    parts = urlsplit(url)
    number = parts.path.strip("/")
    if parts.scheme != "unix" and number and not number.isdecimal():
        raise ValueError(f"A database of Redis is a number, and {number!r} is not a number")
    parse_url(url)


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or port
    except ValueError:
        host = None
    if not host:
        raise ValueError(f"{text!r} is not a host and a port")
    return host, port
