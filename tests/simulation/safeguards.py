"""`python -m tests.simulation.safeguards`: takes safeguards out, and sees whether the seeds notice.

Each is removed alone, in a copy of the package. A seed counts as a find if it breaks a promise with
the change and none without it.
"""

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FAILED = re.compile(r"^seed (\d+): Violation\(promise='([^']*)'", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Safeguard:
    """A part of the code that protects a promise, and the code without it."""

    name: str
    file: str
    old: str
    new: str


SAFEGUARDS = (
    Safeguard(
        "a live event is taken only if it is the next one",
        "topics/replay_buffer.py",
        "if self._is_next(event.cursor):",
        "if event.cursor > self.last:",
    ),
    Safeguard(
        "a later live event makes the topic read the history",
        "topics/live_topic.py",
        "elif self.buffer.stale:\n            self._catch_up_soon()",
        "elif self.buffer.stale:\n            pass",
    ),
    Safeguard(
        "an event that arrives while a topic opens is not forgotten",
        "topics/live_topic.py",
        "            # The head that `open` is asking for may or may not include this event.\n"
        "            self.buffer.stale = True",
        "            pass",
    ),
    Safeguard(
        "an event that arrives while a page is read is not forgotten",
        "topics/live_topic.py",
        "self.buffer.stale = self.buffer.stale or len(events) == PAGE_SIZE",
        "self.buffer.stale = len(events) == PAGE_SIZE",
    ),
    Safeguard(
        "a full page is followed by another one",
        "topics/live_topic.py",
        "self.buffer.stale = self.buffer.stale or len(events) == PAGE_SIZE",
        "pass",
    ),
    Safeguard(
        "a topic that someone joins while it closes stays open",
        "topics/live_topic.py",
        "if self.subscribers or not self._subscribed:",
        "if not self._subscribed:",
    ),
    Safeguard(
        "a buffer that restarts forgets the events before the gap",
        "topics/replay_buffer.py",
        "        self._events.clear()\n        self.last = self._before_first = head",
        "        self.last = head",
    ),
    Safeguard(
        "the epoch of a cursor is compared too",
        "topics/replay_buffer.py",
        "return position.epoch == self._place(missing).epoch",
        "return True",
    ),
    Safeguard(
        "a server that may have lost events begins an epoch",
        "brokers/redis/append.lua",
        "if field(last, 'r') ~= now.server then",
        "if false then",
    ),
    Safeguard(
        "an event id is published once",
        "brokers/redis/publish.lua",
        "if id ~= '' then\n  local cursor = earlier()",
        "if false then\n  local cursor = earlier()",
    ),
    Safeguard(
        "a cursor is good only if its entry is there",
        "brokers/redis/read.lua",
        "if #page == 0 or page[1][1] ~= after then",
        "if #page == 0 then",
    ),
    Safeguard(
        "a topic that did not exist must prove that it has lost nothing",
        "brokers/redis/read.lua",
        "return number == '0' and since and since < time and time < tonumber(epoch)",
        "return true",
    ),
    Safeguard(
        "of several positions, a client continues at the one that is furthest behind",
        "brokers/redis/claim_positions.lua",
        "if not position or is_before(pairs_of_key[at + 1], position) then",
        "if not position or is_before(position, pairs_of_key[at + 1]) then",
    ),
    Safeguard(
        "what was sent is unknown if there are several positions",
        "brokers/redis/claim_positions.lua",
        "if #pairs_of_key > 2 or by ~= server then",
        "if by ~= server then",
    ),
    Safeguard(
        "what was sent is unknown if another server has stored the position",
        "brokers/redis/claim_positions.lua",
        "if #pairs_of_key > 2 or by ~= server then",
        "if #pairs_of_key > 2 then",
    ),
    Safeguard(
        "an event that is being sent counts as sent",
        "topics/resumption.py",
        "sent = max(self.progress.sent, self.progress.reached, self.acknowledged)",
        "sent = self.acknowledged",
    ),
    Safeguard(
        "a pong acknowledges what its own ping said",
        "protocol/pings.py",
        "while self._unanswered and self._unanswered[0][0] <= number:",
        "while self._unanswered:",
    ),
    Safeguard(
        "an end that was told counts only when the client acknowledges it",
        "topics/resumption.py",
        "        if self.runs:\n            self._state = _State.CONCLUDED\n"
        "        else:\n            self.drop()",
        "        self.drop()",
    ),
    Safeguard(
        "a client is told of a gap until it has acknowledged that",
        "topics/resumptions.py",
        "start = min(start, resumption.expired_at)",
        "pass",
    ),
    Safeguard(
        "positions that Redis may have lost are saved again",
        "topics/resumption.py",
        "        self._is_lost = True\n        if self.keeper is not None:",
        "        if False:",
    ),
    Safeguard(
        "a member joins its group only where the group is",
        "execution/group.py",
        "subscriber.position == self._position and subscriber.is_past_repeats",
        "subscriber.is_past_repeats",
    ),
    Safeguard(
        "a member that can't take more reads for itself",
        "execution/group.py",
        "self._leave_behind(member, fan_out.before)",
        "pass",
    ),
    Safeguard(
        "a dead peer is closed",
        "websocket/heartbeat.py",
        "        else:\n            self._dead()",
        "        else:\n            pass",
    ),
    Safeguard(
        "a silent Redis counts as lost",
        "brokers/redis/connection.py",
        'raise TimeoutError(f"no answer for {silent:.1f} s")',
        "pass",
    ),
    Safeguard(
        "a new live connection subscribes to every channel again",
        "brokers/redis/connection.py",
        "self._dirty = set(self.channels)",
        "self._dirty = set()",
    ),
    Safeguard(
        "a socket ends with its token",
        "websocket/session.py",
        "self._expiry = timers.after(max(remaining, 0), self._expired)",
        "pass",
    ),
    Safeguard(
        "a socket ends when its token is revoked",
        "topics/revocation.py",
        "            self._notify(watch)",
        "            pass",
    ),
    Safeguard(
        "an operation for each viewer is not shared",
        "execution/operation.py",
        "if source.per_viewer:",
        "if False:",
    ),
    Safeguard(
        "a position before a topic's first event is good if nothing was lost",
        "brokers/redis/read.lua",
        "if not holds_all() then",
        "if true then",
    ),
    Safeguard(
        "a buffer forgets its oldest event",
        "topics/replay_buffer.py",
        "if len(self._events) > self._size:",
        "if False:",
    ),
    Safeguard(
        "nothing is pushed to a peer for which too much waits",
        "websocket/writer.py",
        "        if frames.full:\n            return False\n",
        "",
    ),
    Safeguard(
        "a subscription that is confirmed counts as a possible gap",
        "brokers/redis/broker.py",
        "self._on_possible_gap(self._names.topic(channel))",
        "pass",
    ),
    Safeguard(
        "a client that comes back after a loss waits for what others save again",
        "topics/resumptions.py",
        "if not waiting or clock.monotonic() < self._settled_at:",
        "if not waiting:",
    ),
    Safeguard(
        "a claim finds what its own process has not saved",
        "topics/resumptions.py",
        "unsaved = self._unsaved()",
        "unsaved: Mapping[str, Claimed] = {}",
    ),
    Safeguard(
        "an event of the outbox keeps its id",
        "outbox/outbox.py",
        "payload, event_id=event.event_id)",
        "payload)",
    ),
    Safeguard(
        "an event is deleted from the outbox only if it was published",
        "outbox/outbox.py",
        "        else:\n            batch.published.append(event.id)",
        "        finally:\n            batch.published.append(event.id)",
    ),
    Safeguard(
        "one process publishes an outbox at a time",
        "outbox/rows.py",
        'return file and f"{file}-outbox"',
        'return ""',
    ),
    Safeguard(
        "a live list continues at the cursor of its snapshot",
        "execution/snapshots.py",
        "subscriber.begin_after(encoded.cursor)",
        "subscriber.begin_after(subscriber.newest)",
    ),
    Safeguard(
        "a client without a snapshot of its live list has no position",
        "topics/subscriber.py",
        "return NOWHERE if self.lacks_snapshot else self.position",
        "return self.position",
    ),
    Safeguard(
        "a gap in a live list brings a snapshot",
        "topics/subscriber.py",
        "fork.takes_snapshots = self.takes_snapshots",
        "pass",
    ),
    Safeguard(
        "the members at a process that is silent leave",
        "brokers/redis/presence_beat.lua",
        "reply[#reply + 1] = name",
        "local _ = name",
    ),
    Safeguard(
        "a subject who comes back in time does not leave",
        "brokers/redis/presence.lua",
        "  if all > 0 then\n    redis.call('ZREM', due, 's' .. subject)",
        "  if all > 0 then",
    ),
    Safeguard(
        "presence that Redis has lost is saved again",
        "topics/local_presence.py",
        "            if not has_all:",
        "            if False:",
    ),
    Safeguard(
        "an operation that can't join its group again ends the presence of its subject",
        "websocket/operations.py",
        "            if member.group is None:\n                member.leave_topic()",
        "            pass",
    ),
)


@contextmanager
def without(safeguard: Safeguard) -> Iterator[Path]:
    """Return a folder with a copy of the package that lacks the safeguard.

    Raises:
        ValueError: The file does not contain the old text exactly once.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "gqlnotify", folder / "gqlnotify")
        (folder / "tests").symlink_to(ROOT / "tests")
        changed = folder / "gqlnotify" / safeguard.file
        text = changed.read_text()
        if text.count(safeguard.old) != 1:
            raise ValueError(f"{safeguard.file} must contain {safeguard.old!r} exactly once")
        changed.write_text(text.replace(safeguard.old, safeguard.new))
        yield folder


def find(safeguard: Safeguard, seeds: int, bad: AbstractSet[int]) -> str:
    """Return which seed notices that the safeguard is missing, after how long, and by what.

    Args:
        safeguard: What to take out.
        seeds: How many seeds to run at most.
        bad: The seeds that break a promise with the safeguard too.
    """
    began, first = _cpu_seconds(), 0
    with without(safeguard) as folder:
        while first < seeds:
            run = _simulate(folder, "--first", str(first), "--seeds", str(seeds - first))
            failed = _FAILED.search(run.stdout)
            if failed is None:
                break
            seed, promise = int(failed[1]), failed[2]
            if seed not in bad:
                return f"found by seed {seed} in {_cpu_seconds() - began:.0f} s: {promise}"
            first = seed + 1
    return f"NOT FOUND in {seeds} seeds and {_cpu_seconds() - began:.0f} s"


def _bad(seeds: int) -> AbstractSet[int]:
    run = _simulate(ROOT, "--keep-going", "--seeds", str(seeds))
    return {int(seed) for seed, _ in _FAILED.findall(run.stdout)}


def _cpu_seconds() -> float:
    # Not the time that passes: a machine may have other work.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _simulate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", "--no-trace", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds each may take")
    parser.add_argument("--only", default="", help="those whose name matches this")
    options = parser.parse_args()
    missed, bad = 0, _bad(options.seeds)
    for safeguard in SAFEGUARDS:
        if re.search(options.only, safeguard.name):
            result = find(safeguard, options.seeds, bad)
            missed += result.startswith("NOT")
            print(f"{safeguard.name}: {result}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
