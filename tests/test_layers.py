"""The layers of docs/architecture.md: imports go down only."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gqlnotify
import gqlnotify.outbox

ROOT = Path(__file__).parent.parent
LAYERS = [
    {
        "backoff",
        "callables",
        "cancellation",
        "clock",
        "codec",
        "deadline",
        "drain",
        "errors",
        "event",
    }
    | {
        "event_loop",
        "extras",
        "frameworks",
        "observability",
        "rate",
        "server_settings",
        "settings",
        "timers",
    },
    # The client knows nothing of the server.
    {"auth", "brokers", "client", "protocol"},
    {"topics"},
    {"execution", "outbox"},
    {"connections"},
    {"websocket", "http"},
    {"console"},
    {"router", "plain"},
    {"server"},
    {"cli", "testing"},
    {"pytest_plugin"},
    {"__main__"},
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# Documented import paths of modules that live elsewhere.
ALIASES = {"http_server", "logs"}
PURE = ["callables.py", "codec/codec.py", "event.py", "execution/fingerprint.py", "protocol/*"]
PURE += [
    "observability/trace_facts.py",
    "observability/trace_verdict.py",
    "rate.py",
    "topics/conflation.py",
    "topics/replay_buffer.py",
]
IMPURE = {"asyncio", "threading", "time", "datetime", "starlette", "fastapi", "strawberry"}

# Undocumented modules are imported only in their adapter. The folder `server/` is one adapter.
ADAPTERS = {
    "strawberry.extensions.runner": "execution/strawberry_adapter.py",
    "strawberry.resolvers": "execution/strawberry_adapter.py",
    "strawberry.schema.validation_rules": "execution/strawberry_adapter.py",
    "graphql.": "execution/strawberry_adapter.py",
    "starlette.routing.Mount": "connections/asgi_adapter.py",
    "fastapi.dependencies.models": "connections/shortcut.py",
    "starlette._exception_handler": "connections/shortcut.py",
    "redis.asyncio.connection": "brokers/redis/redis_adapter.py",
    "redis.maint_notifications": "brokers/redis/redis_adapter.py",
    "uvicorn.": "server/uvicorn_adapter.py",
    "websockets.server": "server/uvicorn_adapter.py",
    "websockets.": "server/",
}
ADAPTER_FILES = {name for name in ADAPTERS.values() if name.endswith(".py")}
# Private only by name: our router's one attribute, and public names of the standard library.
NOT_PRIVATE = {"_gqlnotify", "_replace", "_exit"}


def test_imports_within_the_library_go_down_only() -> None:
    for part, file, module in library_imports():
        if module.startswith("gqlnotify"):
            target = module.split(".")[1]
            foundations = RANK[part] == RANK[target] == 0
            assert part == target or foundations or RANK[target] < RANK[part], f"{file}: {module}"


def test_every_file_of_the_library_has_its_layer() -> None:
    parts = {path.stem for path in (ROOT / "gqlnotify").iterdir() if path.suffix in {".py", ""}}
    assert parts - {"__init__", "__pycache__", "py"} == set(RANK) | ALIASES


def test_the_library_does_not_know_its_applications() -> None:
    for _, file, module in library_imports():
        assert module.split(".")[0] not in {"schema", "examples", "tests", "benchmarks"}, file


def test_each_of_these_is_imported_in_one_place_only() -> None:
    only = {
        "jose": {"auth"},
        "cryptography": {"auth"},
        "gql": {"client"},
        "graphql": {"client", "execution"},
        "redis": {"brokers"},
        "httpx": {"auth"},
    }
    for part, file, module in library_imports():
        assert part in only.get(module.split(".")[0], {part}), f"{file}: {module}"


def test_private_modules_of_frameworks_are_imported_in_their_adapters_only() -> None:
    for _, file, module in library_imports():
        for prefix, adapter in ADAPTERS.items():
            # `from graphql import parse` is public, `from graphql.language.ast import ...` is not.
            inside = module.startswith(prefix) and module.count(".") > prefix.count(".")
            if inside or module == prefix:
                assert name_of(file).startswith(adapter), f"{file}: {module}"
                break


def test_private_attributes_are_used_in_adapters_only() -> None:
    for file in sorted((ROOT / "gqlnotify").rglob("*.py")):
        if name_of(file) not in ADAPTER_FILES:
            assert list(private_uses(file)) == [], file


def test_the_map_names_what_each_adapter_uses() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()

    for adapter in ADAPTER_FILES:
        assert f"| `{adapter}` |" in page


def test_the_pure_files_know_no_loop_no_clock_and_no_framework() -> None:
    pure = {file for pattern in PURE for file in (ROOT / "gqlnotify").glob(pattern)}
    for _, file, module in library_imports():
        assert file not in pure or module.split(".")[0] not in IMPURE, f"{file}: {module}"


def test_applications_use_public_names_only() -> None:
    public = {f"gqlnotify.{name}" for name in gqlnotify.__all__}
    public |= {f"gqlnotify.outbox.{name}" for name in gqlnotify.outbox.__all__}
    used = [
        module
        for folder in ("schema", "examples")
        for file in (ROOT / folder).rglob("*.py")
        for module in imported(file)
        if module.split(".")[0] == "gqlnotify"
    ]
    assert used
    assert set(used) <= public


def library_imports() -> Iterator[tuple[str, Path, str]]:
    """Yield the top-level file or package, the file in it, and what it imports."""
    for file in sorted((ROOT / "gqlnotify").rglob("*.py")):
        part = file.relative_to(ROOT / "gqlnotify").parts[0].removesuffix(".py")
        if part not in {"__init__", *ALIASES}:
            yield from ((part, file, module) for module in imported(file))


def imported(file: Path) -> Iterator[str]:
    """Yield `a.b` for `import a.b` and `a.b.c` for `from a.b import c`, anywhere in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide their layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(file: Path) -> str:
    return file.relative_to(ROOT / "gqlnotify").as_posix()


def private_uses(file: Path) -> Iterator[str]:
    """Yield the private names that a file uses without defining them itself."""
    nodes: list[Any] = list(ast.walk(ast.parse(file.read_text())))
    own = NOT_PRIVATE | {name for node in nodes for name in defined_by(node)}
    for node in nodes:
        name = used_by(node)
        if re.match("_[^_]|__self__", name) and name not in own:
            yield f"line {node.lineno}: {name}"


def defined_by(node: Any) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.name
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            yield node.attr
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def used_by(node: Any) -> str:
    match node:
        case ast.Attribute(attr=name) if name != "__self__":
            return str(name)
        case ast.Call(
            func=ast.Name(id="getattr" | "hasattr" | "setattr"),
            args=[_, ast.Constant(value=name), *_],
        ):
            return str(name)
    return ""
