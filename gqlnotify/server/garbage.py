"""Collects garbage in small steps, for a process that serves thousands of connections.

Python's collector stops the process while it visits objects, and a connection consists of some two
hundred that stay. With its usual rules, a process with 5,000 connections stops for half a second.
Two changes keep each stop short:

- If many objects have survived a full collection, they are frozen: no later collection visits them.
  So a full one only visits what has come since. Most frozen objects are freed when the last
  reference to them goes. Only cycles stay, until the number of frozen objects has doubled: then
  they are all visited once.
- Python counts allocations minus deallocations. A message from a client replaces some objects of
  its connection, which leaves the count as it is. So thousands of young objects come together
  until one collection visits them all. Here, received messages count too.

This changes the whole process, so only `gqlnotify serve` does it. Call `gc.unfreeze()` before you
look for objects with `gc.get_objects()`.
"""

import gc
from collections.abc import Mapping
from math import inf
from typing import Any

# For `gc.set_threshold`. A collection of the young generations visits some 4,000 objects (the first
# number times one more than the second), which takes some milliseconds. A full one visits what ten
# of them have left.
_THRESHOLDS = (1000, 3, 10)
# A message leaves about five objects.
_MESSAGES = 100
# Fewer are visited in a millisecond or two. Some of them are soon garbage, which stays if frozen.
_WORTH_FREEZING = 4000
# Below that, freezing more is not worth a visit to all.
_LEAST_GROWTH = 300_000
# A growth that stays just below the limit would be counted again after each full collection.
_NEARLY = 0.9
_YOUNG, _OLD = 1, 2


class Garbage:
    """The garbage collection of this process."""

    def __init__(self) -> None:
        # Python's rules apply until `collect_in_steps`.
        self._messages_left: float = inf
        self._is_thawed = False
        self._frozen = self._added = 0
        """How many objects were frozen after all were visited, and how many more at most since."""

    def collect_in_steps(self) -> None:
        """Begin, when the application is imported. What exists now stays as long as the process.

        These are some 300,000 objects: modules, classes, the schema.
        """
        gc.set_threshold(*_THRESHOLDS)
        gc.collect()
        self._freeze_all()
        self._messages_left = _MESSAGES
        if self._on_collection not in gc.callbacks:
            gc.callbacks.append(self._on_collection)

    def count_message(self) -> None:
        """Count a message that a client has sent."""
        self._messages_left -= 1
        if self._messages_left <= 0:
            self._messages_left = _MESSAGES
            # A collection resets the count of new objects that makes Python collect. So while many
            # messages come, Python may never collect by itself, and old garbage would stay.
            is_old_due = gc.get_count()[_OLD] > _THRESHOLDS[_OLD]
            gc.collect(_OLD if is_old_due else _YOUNG)

    def _on_collection(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase != "stop" or info["generation"] != _OLD:
            return
        if self._is_thawed:
            self._freeze_all()
            return
        survivors = len(gc.get_objects(_OLD))
        if survivors < _WORTH_FREEZING:
            return
        self._added += survivors
        gc.freeze()
        if self._has_grown():
            # The next full collection visits all: this callback can't begin one.
            gc.unfreeze()
            self._is_thawed = True

    def _freeze_all(self) -> None:
        gc.freeze()
        self._is_thawed = False
        self._frozen, self._added = gc.get_freeze_count(), 0

    def _has_grown(self) -> bool:
        allowed = max(self._frozen, _LEAST_GROWTH)
        if self._added <= allowed:
            return False
        # This takes milliseconds. Most of the added ones may be freed already.
        self._added = gc.get_freeze_count() - self._frozen
        return self._added > _NEARLY * allowed


garbage = Garbage()
