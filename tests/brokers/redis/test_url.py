"""What broker URLs mean, and the errors for invalid ones."""

import pytest

from gqlnotify.brokers.redis import SCHEMES
from gqlnotify.brokers.redis.url import Address
from tests.brokers.redis.support import bad_url

PASSWORD = "pa55word"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_understood(scheme: str) -> None:
    path = "/service" if scheme.endswith("sentinel") else ""
    kind = scheme.partition("+")[2] or "server"

    assert Address.parse(f"{scheme}://host:1234{path}").kind == kind


def test_sentinels_are_listed_with_the_service_they_watch() -> None:
    address = Address.parse("redis+sentinel://a:1,b,[::1]:2/my%20tasks/3")

    assert address.hosts == (("a", 1), ("b", 26379), ("::1", 2))
    assert address.service == "my tasks"
    assert dict(address.options) == {"db": 3}
    assert not address.tls


def test_cluster_nodes_are_listed() -> None:
    address = Address.parse("rediss+cluster://a:1,b/0")

    assert address.hosts == (("a", 1), ("b", 6379))
    assert address.tls


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_credentials_and_options_hold_for_every_host(kind: str) -> None:
    address = Address.parse(
        f"redis+{kind}://me:p%40ss@a:1,b:2/{kind[0]}?max_connections=7".replace("/c?", "?")
    )

    assert address.hosts == (("a", 1), ("b", 2))
    options = dict(address.options)
    assert (options["username"], options["password"]) == ("me", "p@ss")
    assert options["max_connections"] == 7


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:{}@host:1",
        "redis+sentinel://:{}@host:1/",
        "redis+sentinel://:{}@/service",
        "redis+sentinel://:{}@host:port/service",
        "redis+sentinel://:{}@host:99999/service",
        "redis+sentinel://:{}@a,,b/service",
        "redis+cluster://:{}@host:1/1",
        "redis+cluster://:{}@host:1/name",
        "redis+cluster://:{}@",
        "redis+cluster://:{}@host:port",
        "redis+other://:{}@host:1",
        "http://:{}@host:1",
        "http+cluster://:{}@host:1",
        "unix+cluster://:{}@host:1",
        "redis://:{}@host:port",
        "redis://:{}@host:99999",
        "redis://:{}@host:1/database",
        "redis://:{}@host:1?socket_timeout=soon",
        "redis+cluster://:{}@host:1?socket_timeout=soon",
        "redis+cluster://:{}/x@host:1",
        "redis+cluster://:{}@[::1",
        "redis://:{}@[::1",
        ":{}@host",
        "",
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    said = bad_url(url.format(PASSWORD))

    assert said
    assert PASSWORD not in said


@pytest.mark.parametrize("url", ["redis+sentinel://host:1", "redis+sentinel://host:1/"])
def test_a_missing_service_is_named(url: str) -> None:
    assert "service" in bad_url(url)


def test_a_wrong_host_is_named() -> None:
    assert "'b:x'" in bad_url("redis+cluster://a:1,b:x")
