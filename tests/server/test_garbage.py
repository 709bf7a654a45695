"""`gqlnotify serve` collects garbage in small steps, and all of it in the end."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from gqlnotify.server import garbage

pytestmark = pytest.mark.processes

# Each case changes the collector of its process.
_PRELUDE = """
import gc, weakref
from gqlnotify.server import garbage as module
from gqlnotify.server.garbage import garbage

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return node

def full_collections():
    return gc.get_stats()[2]["collections"]

def work_until(condition):
    kept = []
    for _ in range(5_000_000):
        if condition():
            return
        kept.append([])
        if len(kept) > 5000:
            kept.clear()
    raise SystemExit("nothing happened")
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", _PRELUDE + code], check=True, timeout=60)


def test_objects_that_survive_a_full_collection_are_visited_no_more() -> None:
    run("""
garbage.collect_in_steps()
kept = [cycle() for _ in range(50_000)]
begun = full_collections()
work_until(lambda: full_collections() > begun)
assert len(gc.get_objects(2)) < 10_000
""")


def test_cycles_that_were_frozen_are_freed_when_the_frozen_objects_have_doubled() -> None:
    run("""
module._LEAST_GROWTH, module._WORTH_FREEZING = 20_000, 0
garbage.collect_in_steps()
kept = [cycle()]
freed = weakref.ref(kept[0])
begun = full_collections()
work_until(lambda: full_collections() > begun)
kept.clear()
gc.collect()
assert freed() is not None, "frozen"
more = [cycle() for _ in range(gc.get_freeze_count() + 50_000)]
work_until(lambda: freed() is None)
more.clear()
""")


def test_frozen_objects_that_are_freed_do_not_count_as_growth() -> None:
    run("""
module._LEAST_GROWTH = 20_000
garbage.collect_in_steps()
before = gc.get_freeze_count()
for _ in range(3 * before // 50_000 + 3):
    kept = [[] for _ in range(50_000)]
    begun = full_collections()
    work_until(lambda: full_collections() > begun)
    kept.clear()
assert gc.get_freeze_count() >= before, "thawed"
""")


@pytest.mark.parametrize("begun", [True, False], ids=["serve", "another server"])
def test_messages_cause_a_collection_of_young_objects(begun: bool) -> None:
    run(f"""
if {begun}:
    garbage.collect_in_steps()
gc.disable()
young = gc.get_stats()[1]["collections"]
for _ in range(module._MESSAGES):
    garbage.count_message()
assert gc.get_stats()[1]["collections"] - young == {int(begun)}
""")


def test_messages_cause_full_collections_too() -> None:
    run("""
garbage.collect_in_steps()
kept = [cycle()]
freed = weakref.ref(kept[0])
for _ in range(2 * module._MESSAGES):
    garbage.count_message()
kept.clear()
for _ in range(12 * module._MESSAGES):
    garbage.count_message()
assert freed() is None
""")


def test_a_growth_that_stays_the_same_is_rarely_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def get_freeze_count() -> int:
        counted.append(100_000 + (garbage._LEAST_GROWTH * 99 // 100 if counted else 0))
        return counted[-1]

    fake: Any = SimpleNamespace(callbacks=[], get_freeze_count=get_freeze_count)
    fake.get_objects = lambda generation: [generation] * garbage._WORTH_FREEZING
    fake.collect = fake.freeze = fake.unfreeze = fake.set_threshold = lambda *_arguments: None
    monkeypatch.setattr(garbage, "gc", fake)
    garbage.Garbage().collect_in_steps()
    for _ in range(1000):
        fake.callbacks[0]("stop", {"generation": garbage._OLD})
    assert 1 < len(counted) < 50
