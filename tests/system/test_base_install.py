"""What is installed without an extra: how much it is, what works with it, and what is said of the rest."""

import subprocess
from importlib.metadata import distribution, metadata
from pathlib import Path

import pytest

import tidings
from tests.support.distributions import base_requirements, environment_of, needed, size_of
from tests.support.root import ROOT
from tests.support.tidings_process import environment
from tests.system.test_wheel import LIBRARY, built

MOST = 10
MEGABYTES = 20

MILLISECONDS = 200

CLIENT = """
import resource, sys, time
def used():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, began = used(), time.process_time()
import tidings
tidings.Client
spent = (time.process_time() - began) * 1000
print(round(spent), used() - before, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    wheel = built(ROOT, folder / "dist", "wheel")
    return environment_of(wheel, folder / "environment", needed(base_requirements()))


def said(python: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *arguments], cwd=folder, env=environment({}), capture_output=True, text=True
    )


def test_the_base_is_small() -> None:
    """Without an extra at most ten distributions come along, of together less than 20 MB."""
    names = needed(base_requirements())
    assert len(names) <= MOST, sorted(names)
    assert sum(map(size_of, {*names, "msgspec"})) < MEGABYTES * 1e6
    assert {"httpx", "websockets", "msgspec", "structlog"} <= names


def test_the_library_and_the_client_work(python: Path, tmp_path: Path) -> None:
    """The library keeps predictions on SQLite, and the client can be had, with the base alone."""
    done = said(python, "-c", LIBRARY, folder=tmp_path)
    assert done.stdout.startswith("succeeded 3 "), done.stderr


def test_the_client_is_light(python: Path, tmp_path: Path) -> None:
    """`tidings.Client` takes at most 20 MB and 200 ms above the bare interpreter, and loads no part of a server.

    The time is the processor's own, and the least of three: whatever else runs on the machine counts for little.
    """
    tries = [said(python, "-c", CLIENT, folder=tmp_path).stdout.split() for _ in range(3)]
    spent, grown, *loaded = min(tries, key=lambda one: int(one[0]))
    assert int(spent) <= MILLISECONDS
    assert int(grown) <= MEGABYTES * 1024 * 1024
    heavy = {
        "aiohttp",
        "click",
        "cryptography",
        "httpx",
        "jwt",
        "obstore",
        "prometheus_client",
        "rich",
        "sqlite3",
    }
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "tidings.asgi",
            "tidings.asgi needs aiohttp, which is not installed: install Tidings with its extra server",
        ),
        ("tidings.service", "tidings.service needs aiohttp"),
        ("asyncio.run(tidings.open_store('postgresql://h/d'))", "postgresql:// needs asyncpg"),
        ("asyncio.run(tidings.open_store('redis://h'))", "its extra redis, as tidings[redis]"),
        ("asyncio.run(tidings.open_store('durable-objects://h'))", "its extra cloudflare"),
        ("asyncio.run(tidings.open_log('kafka://h:1'))", "its extra kafka, as tidings[kafka]"),
        ("asyncio.run(ObjectStorage('memory://').get('a'))", "its extra archive"),
    ],
)
def test_a_missing_extra_is_named(python: Path, tmp_path: Path, code: str, line: str) -> None:
    """What needs an extra that is not there says in one line which."""
    start = "import asyncio, tidings; from tidings.storage.object_storage import ObjectStorage; "
    failed = said(python, "-c", start + code, folder=tmp_path)
    assert failed.returncode == 1
    assert line in failed.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_command_without_its_extra(python: Path, tmp_path: Path, command: str) -> None:
    """A command of the service says in one line what it needs."""
    failed = said(python, "-m", "tidings", command, folder=tmp_path)
    assert failed.returncode == 1
    (line,) = failed.stderr.strip().splitlines()
    assert line.startswith("tidings: this command needs ")
    assert line.endswith("extra server, as tidings[server]")


def test_the_worker_is_written_out(python: Path, tmp_path: Path) -> None:
    """`tidings worker export` writes the Worker's files into a new folder, and harms none that is there."""
    done = said(python, "-m", "tidings", "worker", "export", "w", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w" / "wrangler.jsonc").is_file()
    assert (tmp_path / "w" / "src" / "index.js").read_bytes() == (
        ROOT / "storage" / "cloudflare" / "worker" / "src" / "index.js"
    ).read_bytes()
    again = said(python, "-m", "tidings", "worker", "export", "w", folder=tmp_path)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_the_metadata_says_what_it_is() -> None:
    """Versions of Python, addresses and extras are named, and the long text links by whole addresses."""
    found = metadata("tidings")
    assert tidings.__version__ == found["Version"]
    classifiers = found.get_all("Classifier") or []
    for minor in range(11, 15):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert {one.partition(",")[0] for one in found.get_all("Project-URL") or ()} >= {
        "Documentation",
        "Changelog",
    }
    assert set(found.get_all("Provides-Extra") or ()) == {
        "all", "archive", "cloudflare", "kafka", "otel", "postgres", "redis", "server"
    }  # fmt: skip
    assert "](docs/" not in (distribution("tidings").read_text("METADATA") or "](docs/")
