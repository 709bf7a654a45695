"""`python -m tests.matrix`: what every client loses, as the table of docs/clients.md."""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.matrix.clients import CLIENTS_OF_THE_TABLE, Client
from tests.matrix.followers import Tally
from tests.matrix.page import PAGE, table, with_programs, with_table
from tests.matrix.run import Plan, run


def main() -> int:
    """Run the programs, and write the table if all of them ran. Returns the exit code."""
    options = _options()
    programs = {
        program.name: [program] * options.copies
        for client in CLIENTS_OF_THE_TABLE
        for _, program in client.programs
        if options.only in program.name
    }
    plan = Plan(options.cuts, options.outage, options.restarts)
    logs = Path(tempfile.mkdtemp(prefix="matrix-"))
    print(f"logs in {logs}", flush=True)
    counted = run(programs, plan, logs=logs, progress=lambda line: print(line, flush=True))
    found = table(counted, plan, today=datetime.now(UTC).date())
    print(found)
    if not options.only:
        PAGE.write_text(with_programs(with_table(PAGE.read_text(), found)))
    broken = [
        program.name
        for client in CLIENTS_OF_THE_TABLE
        for way, program in client.programs
        if program.name in counted and not _is_good(client, way, counted[program.name])
    ]
    print("Broken promises:", ", ".join(broken) or "none")
    return 1 if broken else 0


def _is_good(client: Client, way: str, tally: Tally) -> bool:
    if way == "unchanged":
        return tally.lost_nothing or not client.resumes
    return tally.lost_nothing and not tally.total.repeated


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix")
    parser.add_argument("--cuts", type=int, default=100, help="of the connection of each program")
    parser.add_argument("--outage", type=float, default=6, help="seconds")
    parser.add_argument("--restarts", type=int, default=3, help="deploys, and as many kills")
    parser.add_argument("--copies", type=int, default=1, help="of each program, at the same time")
    parser.add_argument("--only", default="", help="programs with this in their file's name")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
