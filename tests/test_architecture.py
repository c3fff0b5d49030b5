"""The shape of the house: floors, purity, no cycles, drivers in their own files, modules of a size that can be read."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("storage", "streams", "gateway", "tidings")

PURE = (
    "storage/prediction.py",
    "storage/redaction.py",
    "streams/rules/*.py",
    "streams/processing/cloud_events.py",
    "streams/processing/decoder.py",
    "streams/changes/codec.py",
    "streams/archive/ssrf.py",
    "streams/archive/paths.py",
    "streams/archive/content_types.py",
    "streams/archive/output_urls.py",
    "streams/providers/*.py",
    "streams/providers/catalog/*.py",
    "streams/providers/signatures/*.py",
    "gateway/push/hub.py",
    "gateway/push/conflation.py",
    "gateway/push/protocol.py",
    "gateway/push/subscriptions.py",
    "gateway/auth/permissions.py",
    "tidings/config/validators.py",
    "tidings/client/progress.py",
)
LOADERS = frozenset({"streams/providers/registry.py", "streams/providers/signatures/jwks.py"})
"""In a pure folder, but there to load others by name, or to fetch keys."""

DOES_IO = frozenset(
    [
        "aiohttp",
        "aiokafka",
        "asyncio",
        "asyncpg",
        "httpx",
        "logging",
        "obstore",
        "os",
        "pathlib",
        "random",
        "redis",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "structlog",
        "subprocess",
        "threading",
        "time",
        "urllib.request",
        "uvloop",
        "websockets",
    ]
)
DRIVERS = (
    "aiohttp",
    "aiokafka",
    "asyncpg",
    "cryptography",
    "httpx",
    "jwt",
    "obstore",
    "redis",
    "sqlite3",
    "structlog",
    "uvloop",
)
LONGEST_MODULE = 450

MOST_MODULES = 16


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; three floors are links in `tidings`."""
    found = {}
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[0] == "tidings" and parts[1] in FLOORS:
                continue
            dotted = parts if parts[0] == "tidings" else ("tidings", *parts)
            found[".".join(dotted[:-1] if dotted[-1] == "__init__" else dotted)] = path
    return found


def floor_of(name: str) -> str:
    """The floor of a dotted name of the package."""
    second = name.split(".")[1] if "." in name else ""
    return second if second in FLOORS else "tidings"


MODULES = modules()


def imports(path: Path, *, at_import: bool = False, for_types: bool = True) -> set[str]:
    """The dotted names that a file imports.

    With `at_import` those alone that run when it is imported itself; without `for_types` not those that only serve
    annotations.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            module = node.module or ""
            found.update(
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module
                for alias in node.names
            )
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if (
            (at_import or not for_types)
            and isinstance(node, ast.If)
            and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
    return found


def pure_files() -> list[Path]:
    files = [path for pattern in PURE for path in sorted(ROOT.glob(pattern))]
    return [path for path in files if str(path.relative_to(ROOT)) not in LOADERS]


def test_imports_point_down() -> None:
    """No module imports from a floor above its own."""
    wrong = []
    for name, path in MODULES.items():
        above = FLOORS[FLOORS.index(floor_of(name)) + 1 :]
        wrong += [
            f"{name} imports {used}"
            for used in imports(path)
            if used.startswith("tidings") and floor_of(used) in above
        ]
    assert not wrong


@pytest.mark.parametrize("path", pure_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_files_do_no_io(path: Path) -> None:
    """A pure file imports nothing that touches the network, files, the clock, chance or the log."""
    used = {
        name
        for name in imports(path, at_import=True)
        if name in DOES_IO or name.partition(".")[0] in DOES_IO
    }
    assert not used


def test_the_pure_files_are_there() -> None:
    """Each pattern of the pure files meets a file, so that a renamed one does not slip out of the check."""
    assert [pattern for pattern in PURE if not list(ROOT.glob(pattern))] == []


def test_no_cycles() -> None:
    """The modules can be put in an order in which each imports only those before it, late imports included."""
    graph = {
        name: {used for used in imports(path, for_types=False) if used in MODULES} - {name}
        for name, path in MODULES.items()
    }
    for name in graph:
        graph[name] -= {package for package in graph[name] if name.startswith(f"{package}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def folder_of(name: str) -> str:
    """The folder that a module lies in."""
    return MODULES[name].parent.relative_to(ROOT).as_posix()


def test_folders_point_one_way() -> None:
    """The folders can be put in an order in which each imports only those before it, types included."""
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        folder = folder_of(name)
        used = {folder_of(used) for used in imports(path) if used in MODULES}
        graph.setdefault(folder, set()).update(used - {folder})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these folders import each other: {' <- '.join(error.args[1])}")


def test_folders_can_be_read() -> None:
    """No folder holds more modules than a listing can be read at a glance, its `__init__` not counted."""
    counts = Counter(
        folder_of(name) for name, path in MODULES.items() if path.name != "__init__.py"
    )
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_aiokafka_stays_in_its_files() -> None:
    """Only the folder of the log on Kafka knows aiokafka."""
    users = [
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if any(used.partition(".")[0] == "aiokafka" for used in imports(path))
    ]
    assert [user for user in users if not user.startswith("streams/log/kafka/")] == []


def test_no_bare_names() -> None:
    """Nobody imports `storage`, `streams` or `gateway` by its bare name: a module under two names is two modules."""
    bare = re.compile(
        r"^\s*(?:from|import) (?:storage|streams|gateway)\b"
        r"|[\"'](?:storage|streams|gateway)(?:\.\w+)+:\w+[\"']",
        re.MULTILINE,
    )
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.yml", "Makefile"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    found = [
        f"{name}: {match.group().strip()}"
        for name in listed
        if (ROOT / name).is_file() and name != "tests/test_architecture.py"
        for match in bare.finditer((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert not found


def test_modules_can_be_read() -> None:
    """No module is longer than 450 lines."""
    long = {
        name: count
        for name, path in MODULES.items()
        if (count := path.read_text().count("\n")) > LONGEST_MODULE
    }
    assert not long


def test_importing_tidings_loads_no_driver() -> None:
    """`import tidings` loads no driver, and neither does the command line before a command runs."""
    code = f"import sys, tidings, tidings.cli.main; print(*[name for name in {DRIVERS!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.split() == []


def test_the_service_loads_what_it_needs() -> None:
    """What only some services need (tokens, keys, traces, other logs and stores, colors) is not loaded by all of them."""
    rare = (
        "aiokafka",
        "asyncpg",
        "click",
        "cryptography",
        "httpx",
        "jwt",
        "obstore",
        "opentelemetry",
        "redis",
        "rich",
    )
    code = (
        "import sys; from tidings.cli import serve; from tidings.cli.support import command; command.import_plain_structlog();"
        f"import tidings.runtime.service, tidings.observability.logging; print(*[name for name in {rare!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.split() == []


def test_the_public_names_are_there() -> None:
    """Every name that `tidings` promises can be had from it and says what it is, and nothing else."""
    import tidings

    public = vars(tidings)["__all__"]
    for name in public:
        assert (getattr(tidings, name).__doc__ or "").strip(), name
    assert set(public) <= set(dir(tidings))
    with pytest.raises(AttributeError):
        _ = tidings.Nothing  # type: ignore[attr-defined]


def test_type_checkers_see_the_public_names() -> None:
    """What type checkers are told of `tidings` is what it gives, name by name from the same module."""
    import tidings

    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(Path(tidings.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tidings.")
        for alias in node.names
    }
    modules = vars(tidings)["_MODULE_OF"]
    assert told == {name: f"tidings.{module}.{name}" for name, module in modules.items()}
