"""The protocol core against text that no client library sends."""

import json
import platform
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.core import SEEDS, converse

RUNS = 20_000
HAS_WHEELS = (
    sys.platform == "linux"
    and platform.machine() == "x86_64"
    and platform.python_implementation() == "CPython"
    and sys.version_info[:2] == (3, 11)
)

any_text = st.text(st.characters(exclude_categories=()))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid message of which a part was replaced, repeated or removed."""
    text = draw(st.sampled_from(SEEDS))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(start + 20, len(text))))
    return text[:start] + draw(any_text | st.just(text[start:end] * 2)) + text[end:]


@st.composite
def deep(draw: st.DrawFn) -> str:
    """Nested arrays or objects, up to the limit of the decoder and beyond."""
    depth = draw(st.integers(1, 2000) | st.just(100_000))
    opening, closing = draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
    inner = opening * depth + "1" + closing * depth
    return draw(st.sampled_from([inner, f'{{"type":"ping","payload":{{"a":{inner}}}}}']))


@st.composite
def huge_id(draw: st.DrawFn) -> str:
    id_ = draw(st.sampled_from(["x", "é", "\ud800", "\x00"])) * draw(st.integers(1, 5000))
    type_ = draw(st.sampled_from(["subscribe", "complete"]))
    return json.dumps(
        {"type": type_, "id": id_, "payload": {"query": "{ a }"}}, ensure_ascii=draw(st.booleans())
    )


conversations = st.lists(
    st.one_of(st.sampled_from(SEEDS), mutated(), any_text, deep(), huge_id()), max_size=12
)


@given(conversations, st.booleans())
def test_every_input_gets_an_answer_of_the_protocol(said: list[str], opened: bool) -> None:
    converse([SEEDS[0], *said] if opened else said)


@pytest.mark.skipif(not HAS_WHEELS, reason="atheris has no wheel for this platform")
@pytest.mark.processes
def test_no_input_that_coverage_leads_to_breaks_the_core() -> None:
    assert find_spec("atheris"), "atheris must be installed here"
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.atheris_core", "--runs", str(RUNS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    executed = re.search(r"stat::number_of_executed_units: (\d+)", run.stderr)
    # On a slow machine the time runs out first.
    assert executed, run.stderr[-3000:]
    assert int(executed[1]) > RUNS // 10
