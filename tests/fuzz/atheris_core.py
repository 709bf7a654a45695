"""`python -m tests.fuzz.atheris_core --runs N`: the protocol core, guided by coverage.

An input is a conversation, one message a line; bytes that are not UTF-8 become lone surrogates.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gqlnotify.protocol", "json"]):
    from tests.fuzz.core import SEEDS, converse


def one(data: bytes) -> None:
    """Send the messages of one conversation."""
    converse(data.decode("utf-8", "surrogateescape").split("\n"))


def main() -> None:
    """Run a number of inputs, or for some time; libFuzzer prints the count, and exits."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.atheris_core")
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0 takes a random one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate((*SEEDS, "\n".join(SEEDS))):
            (Path(directory) / str(number)).write_text(seed)
        arguments = [
            f"-runs={options.runs}",
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed}",
            "-max_len=6000",
            f"-artifact_prefix={tempfile.gettempdir()}/",
            "-print_final_stats=1",
            directory,
        ]
        atheris.Setup([sys.argv[0], *arguments], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
