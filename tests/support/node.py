"""Node.js for the tests: tools and packages of `clients/package-lock.json`, which npm fetches into `.cache/`."""

import asyncio
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.root import ROOT
from tests.support.system import NODE, require

CLIENTS = ROOT / "clients"
CACHE = ROOT / ".cache" / "npm"
_FILES = ("package.json", "package-lock.json", ".npmrc")


class NodeFailed(Exception):
    """A program of Node.js did not end well; the message has what it wrote."""


def run(*command: str | Path, folder: Path, within: float = 120, **environment: str) -> str:
    """What a program writes; it must end well.

    Raises:
        NodeFailed: It did not.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=within,
        env={**os.environ, "NO_COLOR": "1", "npm_config_update_notifier": "false", **environment},
        check=False,
    )
    if done.returncode:
        raise NodeFailed(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


async def printed(*command: str | Path, folder: Path | None = None, within: float = 60) -> str:
    """What a program prints, while the services of the test go on.

    Raises:
        NodeFailed: It did not end well.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), within)
    if process.returncode:
        raise NodeFailed(f"{command[0]} ended with {process.returncode}:\n{errors.decode()}")
    return output.decode()


def fetched(project: Path) -> Path:
    """A folder with the `node_modules` of a project, as its lock file says; fetched where it is missing.

    The test that calls this is skipped without npm, and fails in CI.
    """
    content = b"".join(
        (project / name).read_bytes() for name in _FILES if (project / name).exists()
    )
    folder = CACHE / f"{project.name}-{hashlib.sha256(content).hexdigest()[:16]}"
    if not folder.exists():
        require(NODE)
        CACHE.mkdir(parents=True, exist_ok=True)
        # Fetched beside and renamed: an interrupted fetch, or two at once, leave no half a folder.
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            new = Path(work, "new")
            new.mkdir()
            for name in _FILES:
                if (project / name).exists():
                    shutil.copy(project / name, new)
            run("npm", "ci", "--ignore-scripts", folder=new, within=600)
            if not folder.exists():
                new.rename(folder)
    return folder


def tools() -> Path:
    """The folder with the tools: esbuild, tsc, vite, pyright, and React twice."""
    return fetched(CLIENTS)


def tool(name: str) -> Path:
    """A program among the tools."""
    return tools() / "node_modules" / ".bin" / name


@functools.cache
def packages() -> Path:
    """A project into which npm has installed our packages, as `npm pack` makes them.

    What they need besides lies beside them, from the tools.
    """
    folder = Path(tempfile.mkdtemp(prefix="tidings-packages-"))
    have = tools() / "node_modules"
    names = [_packed(CLIENTS / name, folder) for name in ("js", "react")]
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    quiet = ("--no-audit", "--no-fund", "--offline", "--legacy-peer-deps", "--ignore-scripts")
    run("npm", "install", *quiet, *names, folder=folder)
    for package in have.iterdir():
        if package.name.startswith((".", "@tidings")):
            continue
        (folder / "node_modules" / package.name).symlink_to(package)
    return folder


def _packed(package: Path, target: Path) -> str:
    """The archive of a package, packed in a copy, so that tests leave nothing in the source."""
    root = target / "source"
    if not root.exists():
        (root / "gateway").mkdir(parents=True)
        shutil.copy(ROOT / "LICENSE", root)
        shutil.copytree(ROOT / "gateway" / "static", root / "gateway" / "static")
        ours = shutil.ignore_patterns("node_modules", "dist")
        shutil.copytree(CLIENTS, root / "clients", ignore=ours)
    written = run("npm", "pack", "--silent", folder=root / "clients" / package.name)
    return str(root / "clients" / package.name / written.strip().splitlines()[-1])


def version() -> int:
    """The major version of Node.js."""
    found = re.match(r"v(\d+)", run("node", "--version", folder=ROOT))
    assert found is not None
    return int(found[1])


def bundled(source: Path, target: Path, *arguments: str) -> Path:
    """A page's script with all that it imports, from the installed packages."""
    run(
        *(tool("esbuild"), source, "--bundle", "--format=esm", "--jsx=automatic"),
        *("--log-level=warning", f"--outfile={target}", *arguments),
        folder=packages(),
        NODE_PATH=str(packages() / "node_modules"),
    )
    return target
