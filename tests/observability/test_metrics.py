"""The metrics are right, and they cost a delivery nothing."""

import asyncio
import gc
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import gqlnotify.outbox  # noqa: F401  # it has metrics of its own
from gqlnotify import TopicManager
from gqlnotify.errors import CursorExpired
from gqlnotify.observability import metrics, prometheus
from tests.bad_brokers import LosingItsData, OutOfReach
from tests.e2e.raw import Socket, open_socket
from tests.servers import DIRECT, Program, Server, serving
from tests.streams import (
    NUMBERS,
    leaving_nothing,
    publish_all,
    started,
    take,
)
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.usefixtures("no_linger")

ROOT = Path(__file__).parent.parent.parent
APP = "tests.e2e.app:app"
SUBSCRIBE = 'subscription { numbers(name: "n") { value } }'
PUBLISH = 'mutation ($value: Int!) { publish(name: "n", value: $value) }'
SERVE = Program("gqlnotify serve {application} --port {port}", r"Uvicorn running on \S+:(\d+)")


@pytest.fixture(scope="module", params=[DIRECT, ()], ids=["direct", "portable"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    with serving(APP, directory, *request.param, topic_linger=0) as server:
        yield server


class Scraper:
    """Reads the metrics of one server."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def samples(self) -> dict[str, float]:
        text = (await self._client.get("/metrics")).raise_for_status().text
        families = text_string_to_metric_families(text)
        return {_key(sample): sample.value for family in families for sample in family.samples}

    async def of(self, *names: str) -> list[float]:
        samples = await self.samples()
        return [samples[f"gqlnotify_{name}"] for name in names]


def _key(sample: Sample) -> str:
    labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


@asynccontextmanager
async def scraping(server: Server) -> AsyncIterator[Scraper]:
    async with httpx.AsyncClient(base_url=server.http, timeout=PATIENCE) as client:
        yield Scraper(client)


@asynccontextmanager
async def subscribed(server: Server, scraper: Scraper, number: int) -> AsyncIterator[list[Socket]]:
    """Open sockets, each with the same subscription, all of them in one group."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(open_socket(server.ws)) for _ in range(number)]
        for socket in sockets:
            await socket.init()
            await socket.subscribe("s", SUBSCRIBE)

        async def all_share() -> bool:
            return await scraper.of("operations{how=shared}") == [number]

        await wait_until(all_share)
        yield sockets


async def test_one_event_for_many_is_one_execution_and_as_many_deliveries(server: Server) -> None:
    async with scraping(server) as scraper, subscribed(server, scraper, 5) as sockets:
        before = await scraper.samples()
        async with open_socket(server.ws) as publisher:
            await publisher.init()
            for value in range(3):
                await publisher.query(PUBLISH, variables={"value": value})
        for socket in sockets:
            for _ in range(3):
                await socket.next("s")
        after = await scraper.samples()

    def added(name: str) -> float:
        return after[f"gqlnotify_{name}"] - before[f"gqlnotify_{name}"]

    assert added("events_published_total") == 3
    assert added("events_received_total") == 3
    assert added("executions_total") == 3
    assert added("deliveries_total") == 15
    assert added("executions_saved_total") == 12
    assert added("sent_bytes_total") > 15 * len('"type":"next","payload":{}')
    assert added("publish_to_write_seconds_count") == 3
    assert 0 <= added("publish_to_write_seconds_sum") < 30


async def test_gauges_count_what_exists_until_it_ends(server: Server) -> None:
    gauges = ("connections", "operations{how=shared}", "groups", "topics", "readers")
    async with scraping(server) as scraper:

        async def nothing_is_left() -> bool:
            return await scraper.of(*gauges) == [0, 0, 0, 0, 0]

        await wait_until(nothing_is_left)
        async with subscribed(server, scraper, 3):
            assert await scraper.of(*gauges) == [3, 3, 1, 1, 1]
        await wait_until(nothing_is_left)


async def test_unread_output_of_a_peer_is_counted(server: Server) -> None:
    async with (
        scraping(server) as scraper,
        open_socket(server.ws, max_queue=1, close_timeout=0.2) as socket,
    ):
        await socket.init()
        await socket.subscribe("s", "subscription { flood(size: 10000) }")

        async def holds() -> bool:
            held, alone = await scraper.of("held_bytes", "operations{how=alone}")
            return held > 10_000 and alone == 1

        await wait_until(holds)


async def test_protocol_violations_are_counted_by_kind(
    server: Server,
) -> None:
    async with scraping(server) as scraper, open_socket(server.ws) as socket:
        await socket.raw("nonsense")
        assert (await socket.closed()).code == 4400
        assert await scraper.of("refusals_total{reason=invalid_message}") == [1]


async def test_a_scrape_gets_the_format_that_it_accepts(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.http) as client:
        plain = await client.get("/metrics")
        modern = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})

    assert plain.headers["content-type"].startswith("text/plain")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


async def test_each_worker_reports_the_metrics_of_all_workers(
    tmp_path: Path, redis_url: str
) -> None:
    with serving(
        APP,
        tmp_path,
        *("--workers", "2"),
        program=SERVE,
        broker_url=redis_url,
        broker_prefix=f"metrics-{tmp_path.name}",
        jwt_secret="",
    ) as server:
        # This application needs no token, whatever `serve` prints.
        await wait_until(lambda: server.log.count("Application startup complete") == 2, seconds=30)
        async with scraping(server) as scraper:
            for value in range(20):
                await _publish_by_a_new_connection(server, value)
            for _ in range(10):
                assert await _asked_anew(server) == 20
            assert (await scraper.samples())["gqlnotify_connections"] == 0


async def _asked_anew(server: Server) -> float:
    async with scraping(server) as scraper:
        return (await scraper.of("events_published_total"))[0]


async def _publish_by_a_new_connection(server: Server, value: int) -> None:
    found = re.search(r'"Bearer ([^"]+)"', server.log)
    headers = {"authorization": f"Bearer {found[1]}"} if found else {}
    body = {"query": PUBLISH, "variables": {"value": value}}
    async with httpx.AsyncClient(base_url=server.http, headers=headers, timeout=PATIENCE) as client:
        answer = (await client.post("/graphql", json=body)).json()
    assert "errors" not in answer, answer


@pytest.mark.processes
def test_the_gauges_of_a_dead_process_are_no_longer_counted(tmp_path: Path) -> None:
    script = (
        "from gqlnotify import metrics; metrics.connections.set(5); metrics.gaps.inc();"
        "metrics.topics.set(2); import os; os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, prometheus.DIRECTORY: str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, check=False)
    ask = (
        "import asyncio; from starlette.requests import Request; from gqlnotify import metrics;"
        "request = Request({'type': 'http', 'headers': []});"
        "print(asyncio.run(metrics.endpoint(request)).body.decode())"
    )
    scrape = subprocess.run(
        [sys.executable, "-c", ask], env=environment, cwd=ROOT, check=True, capture_output=True
    )

    text = scrape.stdout.decode()
    assert "gqlnotify_connections 0.0" in text
    assert "gqlnotify_topics 0.0" in text
    assert "gqlnotify_gaps_total 1.0" in text


def test_a_slow_reader_that_was_disconnected_is_counted_separately() -> None:
    before = counted("slow_readers_ended")
    metrics.refused("INVALID_MESSAGE")
    assert counted("slow_readers_ended") == before
    metrics.refused("TOO_SLOW")
    assert counted("slow_readers_ended") == before + 1


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(f"gqlnotify_{name}_total") or 0.0


async def test_dropped_events_are_counted_when_they_are_found() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        catch_ups, received = counted("catch_ups"), counted("events_received")
        await publish_all(manager, [1])
        broker.deaf = True
        await publish_all(manager, [2, 3])
        broker.on_possible_gap(NUMBERS.name)

        assert await take(stream, 3) == [1, 2, 3]
        assert counted("catch_ups") == catch_ups + 1
        assert counted("events_received") == received + 3
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: broker.calls["read"] == 2)
        assert counted("catch_ups") == catch_ups + 1
        await stream.aclose()


async def test_a_history_that_was_lost_is_counted_as_a_gap() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        gaps = counted("gaps")
        broker.lose_everything()
        await publish_all(manager, [2])

        with pytest.raises(CursorExpired):
            await take(stream, 2)
        assert counted("gaps") == gaps + 1
        await stream.aclose()


async def test_deliveries_are_counted_after_the_writes_of_their_tick() -> None:
    def observed(part: str) -> float:
        return REGISTRY.get_sample_value(f"gqlnotify_publish_to_write_seconds_{part}") or 0.0

    loop = asyncio.get_running_loop()
    delivered, saved, seen, delay = (
        *(counted("deliveries"), counted("executions_saved")),
        *(observed("count"), observed("sum")),
    )
    written: list[float] = []
    loop.call_soon(lambda: written.append(counted("deliveries")))
    # One event is from the future: the clock of its publisher may be ahead.
    metrics.DeliveryCounter.of(loop).add(3, 2, 100, [1e12, 0.0])
    metrics.DeliveryCounter.of(loop).add(1, 1, 100, [1e12])
    await wait_until(lambda: observed("count") == seen + 3)

    assert written == [delivered]
    assert counted("deliveries") == delivered + 7
    assert counted("executions_saved") == saved + 4
    assert observed("sum") > delay


def test_every_metric_is_documented_as_it_is() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    documented = re.findall(r"^\| `(gqlnotify_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", page, re.M)

    assert {(name, kind, labels.strip("` ")) for name, kind, labels, _ in documented} == {
        (
            f"{metric.name}_total" if metric.type == "counter" else metric.name,
            metric.type,
            ", ".join(_labels_of(metric.name)),
        )
        for metric in REGISTRY.collect()
        if metric.name.startswith("gqlnotify_")
    }


def _labels_of(name: str) -> tuple[str, ...]:
    collectors = REGISTRY._names_to_collectors
    return tuple(getattr(collectors[name], "_labelnames", ()))


def test_objects_dropped_without_being_closed_are_no_longer_counted() -> None:
    class One:
        def load(self) -> metrics.Load:
            yield metrics.connections, 1

    metrics.watch(One())
    gc.collect()
    assert not [each for each in metrics._watch.sampled if isinstance(each, One)]
