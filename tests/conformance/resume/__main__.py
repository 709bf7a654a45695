"""`python -m tests.conformance.resume`: checks a server against docs/spec.md."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.resume.contract import TASK_SERVICE, BadContract, Contract, read
from tests.conformance.resume.kit import Kit
from tests.conformance.resume.run import Report, chosen, run

# How long a server may take to notice a cut, and to tell its other processes.
_SETTLE, _SETTLE_ELSEWHERE = 0.2, 1.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code: 0 if none failed, 1 if one did, 2 if none ran."""
    options = _parser().parse_args(arguments)
    checks = chosen(options.checks)
    if options.list:
        print("\n".join(f"{each.id:<24} {each.title}" for each in checks))
        return 0
    if not checks:
        print("No check has such an id: --list shows them all", file=sys.stderr)
        return 2

    async def check(contract: Contract) -> Report:
        settle = options.settle or (_SETTLE if len(contract.urls) == 1 else _SETTLE_ELSEWHERE)
        kit = Kit(contract, patience=options.patience, settle=settle)
        try:
            return await run(kit, checks, at_once=options.at_once)
        finally:
            await kit.close()

    try:
        with _contract(options) as contract:
            report = asyncio.run(check(contract))
    except BadContract as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(report.data, indent=2) if options.json else report.text)
    return 1 if report.failed else 0


@contextmanager
def _contract(options: argparse.Namespace) -> Iterator[Contract]:
    if options.url:
        yield read(
            options.contract, options.url, token=options.token, other_token=options.other_token
        )
        return
    # Only here: the kit itself needs nothing of this project.
    from tests.conformance.resume.service import task_service

    with task_service(options.broker) as contract:
        yield contract


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.resume", description=__doc__)
    add = parser.add_argument
    add(
        "--url",
        nargs="*",
        help="the GraphQL endpoint, or that of several processes of one server; without it, the "
        "task service is started and checked",
    )
    add("--contract", type=Path, default=TASK_SERVICE, help="a JSON file: how to use the server")
    add("--token", default="", help="what replaces {{token}} in the contract")
    add("--other-token", default="", help="the same for a second subject with the same rights")
    add(
        "--broker",
        choices=["memory", "redis"],
        default="memory",
        help="that of the task service that is started; two processes with redis",
    )
    add("--checks", nargs="*", default=["*"], help="ids or globs such as 'SSE-*'")
    add("--list", action="store_true", help="show the checks and run none")
    add("--json", action="store_true", help="print the outcomes as JSON")
    add("--at-once", type=int, default=6, help="checks that run side by side (default 6)")
    add("--patience", type=float, default=10, help="seconds that anything may take (default 10)")
    add(
        "--settle",
        type=float,
        help="seconds in which the server notices that a connection was cut, and tells its other "
        f"processes (default {_SETTLE:g}, or {_SETTLE_ELSEWHERE:g} with several addresses)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
