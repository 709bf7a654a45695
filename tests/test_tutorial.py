"""The tutorial, step by step: each of its files, commands and outputs, in order."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.redis_servers import RedisServer, redis_server, wait_for
from tests.servers import PATIENCE, ROOT, Server

pytestmark = pytest.mark.processes

_BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PROGRAMS = Path(sys.executable).parent


class Reader:
    """Does what the page says, in a new folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        page = (ROOT / "docs" / "tutorial.md").read_text()
        self.blocks = deque(_BLOCK.findall(page))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("GQLNOTIFY_")}
        self.environment = {
            **inherited,
            "PATH": f"{_PROGRAMS}:{inherited['PATH']}",
            "PYTHONPATH": str(ROOT),
            "no_proxy": "127.0.0.1",
        }
        self.server = Server("app:app", folder / "log", self.environment, directory=folder)
        self.redis: RedisServer | None = None
        self.follower: subprocess.Popen[bytes] | None = None
        self.printed = folder / "printed"
        self._seen = 0

    def write_file(self) -> None:
        language, name, content = self.blocks.popleft()
        assert (language, bool(name)) == ("python", True), content
        (self.folder / name).write_text(content.replace("127.0.0.1:8000", self._address))

    def run(self) -> str:
        """Run the commands of the next block in a shell, and return what they print."""
        return self._shell(self._commands())

    def export(self) -> None:
        """Keep the variables that the next block exports first, and skip its other lines."""
        lines = self._commands().splitlines()
        while lines and lines[0].startswith("export "):
            line = lines.pop(0)
            name = line.removeprefix("export ").partition("=")[0]
            self.environment[name] = self._shell(f'{line}\nprintf %s "${name}"')
        if lines:
            self.blocks.appendleft(("sh", "", "\n".join(lines)))

    def start_server(self) -> None:
        assert self._commands() == "uvicorn app:app"
        self.server.start()

    def follow(self) -> None:
        [program, script] = self._commands().split()
        with self.printed.open("wb") as output:
            self.follower = subprocess.Popen(
                [program, script],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._seen = 0

    def stop_following(self) -> None:
        if self.follower is not None:
            self.follower.send_signal(signal.SIGINT)
            self.follower.wait(PATIENCE)
            self.follower = None

    def see_printed(self) -> None:
        """Wait until the follower has printed what the next block shows, and no more."""
        expected = self._next("text").splitlines()
        wait_for(lambda: len(self._lines()) >= len(expected), f"it prints {expected}")
        assert self._lines() == expected
        self._seen += len(expected)

    def see_answer(self, answer: str) -> None:
        assert json.loads(answer) == json.loads(self._next("json"))

    def skip(self, first_word: str) -> None:
        assert self._commands().startswith(first_word)

    @property
    def _address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def _lines(self) -> list[str]:
        return self.printed.read_text().splitlines()[self._seen :]

    def _commands(self) -> str:
        text = self._next("sh").strip().replace("127.0.0.1:8000", self._address)
        return (
            text if self.redis is None else text.replace("redis://localhost:6379", self.redis.url)
        )

    def _next(self, language: str) -> str:
        found, _, content = self.blocks.popleft()
        assert found == language, content
        return str(content)

    def _shell(self, commands: str) -> str:
        ran = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    with ExitStack() as running:
        running.callback(reader.server.stop)
        running.callback(reader.stop_following)
        yield reader


def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    reader.skip("mkdir")
    reader.write_file()  # orders.py
    reader.write_file()  # app.py
    reader.start_server()
    reader.see_answer(reader.run())

    reader.write_file()  # follow.py
    reader.follow()
    reader.see_printed()
    reader.stop_following()
    reader.run()
    reader.follow()
    reader.see_printed()

    with redis_server(persistent=True) as reader.redis:
        reader.skip("redis-server")
        reader.server.stop()
        reader.export()
        reader.start_server()
        reader.see_printed()
        reader.write_file()  # worker.py
        reader.export()
        reader.run()
        reader.see_printed()

        reader.write_file()  # app.py, with rights
        reader.run()
        reader.see_printed()
        reader.stop_following()
        reader.server.stop()
        reader.run()
        reader.export()
        reader.start_server()
        reader.export()
        reader.follow()
        reader.see_printed()
        for _ in ("alice", "gustav"):
            reader.see_answer(reader.run())

    reader.write_file()  # conftest.py
    reader.write_file()  # test_app.py
    assert "3 passed" in reader.run()
    assert not reader.blocks
    assert reader.server.trouble == []
