"""`gqlnotify tail` prints each event once and in order, whatever happens to Redis."""

import json
import re
import signal
import subprocess
import time
from threading import Event, Thread

import pytest

from gqlnotify import Publisher
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.settings import Settings as GqlnotifySettings
from tests.cli.support import (
    COMMAND,
    assert_fails,
    environment,
    lines_of,
    on,
    read_until,
    run,
    tailing,
)
from tests.redis_servers import redis_server
from tests.waiting import PATIENCE

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["prices..gold"], "A topic name consists of"),
        (["prices.<metal>"], "is a family: call it with metal first"),
        (["prices", "--after", "yesterday"], "A cursor looks like"),
        ([], "Missing argument"),
    ],
)
def test_tail_explains_what_is_wrong_with_its_arguments(
    redis_url: str, arguments: list[str], complaint: str
) -> None:
    assert_fails(run("tail", *arguments, settings=on(redis_url)), 2, complaint)


def test_tail_prints_each_event_at_once_as_a_line_of_json(redis_url: str, topic: str) -> None:
    with tailing(redis_url, topic) as tail, Publisher(redis_url) as publisher:
        # One by one: an event that is not flushed at once would not arrive before the next one.
        first = publisher.publish_sync(topic, {"metal": "Gałązka\nzłota"}, event_id="x")
        assert json.loads(read_until(tail, "\n")) == {
            "topic": topic,
            "cursor": str(first),
            "id": "x",
            "payload": {"metal": "Gałązka\nzłota"},
        }
        second = publisher.publish_sync(topic, None)
        assert json.loads(read_until(tail, "\n")) == {
            "topic": topic,
            "cursor": str(second),
            "id": None,
            "payload": None,
        }


def test_tail_follows_several_topics(redis_url: str, topic: str) -> None:
    other = f"{topic}.other"
    with tailing(redis_url, topic, other, topic) as tail, Publisher(redis_url) as publisher:
        assert tail.stderr is not None
        assert tail.stderr.readline().startswith(b"Following ")
        seen = []
        for name in (topic, other):
            publisher.publish_sync(name, 1)
            seen.append(json.loads(read_until(tail, "\n"))["topic"])

    assert seen == [topic, other]


def test_tail_can_print_text(redis_url: str, topic: str) -> None:
    with tailing(redis_url, topic, "--format", "text") as tail, Publisher(redis_url) as publisher:
        cursor = publisher.publish_sync(topic, {"text": "Gałązka \x9b31m\u202e"})
        line = read_until(tail, "\n")

    when, _, shown = line.partition(f"  {topic}  ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", when)
    assert shown == f'{cursor}  {{"text": "Gałązka \\x9b31m\\u202e"}}\n'


def test_tail_takes_a_cursor_only_for_one_topic() -> None:
    done = run("tail", "a", "b", "--after", "1-1", settings=on("redis://127.0.0.1:1"))

    assert_fails(done, 2, "--after is a cursor of one topic")


def test_tail_starts_after_the_cursor_or_with_the_next_event(redis_url: str, topic: str) -> None:
    with Publisher(redis_url) as publisher:
        cursors = publisher.publish_many_sync((topic, n) for n in range(5))
        with (
            tailing(redis_url, topic, "--after", str(cursors[2])) as resumed,
            tailing(redis_url, topic) as live,
        ):
            publisher.publish_sync(topic, 5)

            assert [line["payload"] for line in lines_of(resumed, 5)] == [3, 4, 5]
            assert [line["payload"] for line in lines_of(live, 5)] == [5]


class Numbering:
    """Publishes numbers in a thread, each until it is confirmed."""

    def __init__(self, url: str, topic: str) -> None:
        self.count = 0
        self._url, self._topic = url, topic
        self._enough = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Numbering":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def wait_for_more(self, more: int) -> None:
        wanted, deadline = self.count + more, time.monotonic() + 30
        while self.count < wanted:
            assert time.monotonic() < deadline, "the publisher does not get on"
            time.sleep(0.005)

    def _run(self) -> None:
        settings = GqlnotifySettings(broker_timeout=2, history_length=100_000)
        with Publisher(self._url, settings=settings) as publisher:
            while not self._enough.is_set():
                try:
                    publisher.publish_sync(self._topic, self.count, event_id=str(self.count))
                except BrokerUnavailable:
                    time.sleep(0.02)
                else:
                    self.count += 1
                    time.sleep(0.001)


def test_tail_survives_restarts_and_crashes_of_redis_without_loss(topic: str) -> None:
    with redis_server(persistent=True) as server, tailing(server.url, topic) as tail:
        with Numbering(server.url, topic) as numbers:
            for end in (server.stop, server.kill, server.stop, server.kill):
                numbers.wait_for_more(30)
                end()
                server.start()
            numbers.wait_for_more(30)
        lines = lines_of(tail, numbers.count - 1)

        assert [line["payload"] for line in lines] == list(range(numbers.count))
        assert tail.poll() is None


def test_tail_ends_with_status_3_if_the_cursor_has_expired(topic: str) -> None:
    with redis_server() as server, Publisher(server.url) as publisher:
        cursor = publisher.publish_sync(topic, 1)
        server.ask("FLUSHALL")
        done = run("tail", topic, "--after", str(cursor), settings=on(server.url))

    assert_fails(done, 3, "does not reach back")


def test_tail_ends_with_status_3_when_redis_loses_events(
    topic: str,
) -> None:
    with (
        redis_server() as server,
        Publisher(server.url) as publisher,
        tailing(server.url, topic) as tail,
    ):
        publisher.publish_sync(topic, 1)
        read_until(tail, "\n")
        server.ask("FLUSHALL")
        publisher.publish_sync(topic, 2)
        _, complaint = tail.communicate(timeout=PATIENCE)

    assert tail.returncode == 3
    assert b"gqlnotify: " in complaint
    assert b"Traceback" not in complaint


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_tail_ends_quietly_on_a_signal(redis_url: str, topic: str, how: int) -> None:
    with tailing(redis_url, topic) as tail, Publisher(redis_url) as publisher:
        publisher.publish_sync(topic, 1)
        read_until(tail, "\n")
        tail.send_signal(how)
        output, complaint = tail.communicate(timeout=PATIENCE)

    assert tail.returncode in {0, -signal.SIGTERM}
    assert (output, complaint) == (b"", b"")


def test_tail_ends_quietly_when_its_output_is_closed(redis_url: str, topic: str) -> None:
    with Publisher(redis_url) as publisher:
        first, *_ = publisher.publish_many_sync((topic, n) for n in range(1000))
    tail = subprocess.Popen(
        [*COMMAND, "tail", topic, "--after", f"{first.epoch}-0"],
        env=environment(on(redis_url)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    head = subprocess.run(
        ["head", "-1"], stdin=tail.stdout, capture_output=True, check=True, timeout=PATIENCE
    )
    assert tail.stdout is not None
    tail.stdout.close()
    _, complaint = tail.communicate(timeout=PATIENCE)

    assert json.loads(head.stdout)["payload"] == 0
    assert complaint.decode().splitlines() == [f"Following {topic} after {first.epoch}-0"]
