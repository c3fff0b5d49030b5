"""The built wheel in an environment of its own, beside a project that has folders of our names."""

import asyncio
import hashlib
import hmac
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import aiohttp
import pytest

from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import environment

FLOORS = ("storage", "streams", "gateway")
SECRET = "a-secret-of-thirty-two-bytes-or-more"
MINE = 'raise ImportError("this module belongs to the project, and Tidings has no use for it")\n'

LIBRARY = """
import asyncio, tidings
from tidings import PredictionStatusManager, open_store

async def main():
    store = await open_store("sqlite:///library.db")
    manager = PredictionStatusManager(store)
    await manager.initialize("p1", prompt="a cat")
    await manager.mark_as_processing("p1")
    await manager.mark_as_succeeded("p1", "https://x.example/a.png")
    record = await manager.get("p1")
    print(record.status.value, record.version, tidings.__file__)
    await store.close()

asyncio.run(main())
"""


def built(source: Path, folder: Path, target: str) -> Path:
    """Build a wheel or a source archive without a network; returns its file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = folder.glob("tidings-*.whl" if target == "wheel" else "tidings-*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_wheel_has_one_name(wheel: Path) -> None:
    """What is installed is `tidings` and its metadata, with everything that the repository tracks of it."""
    files = content(wheel)
    tops = {name.partition("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tidings"}
    tracked = subprocess.run(
        ["git", "ls-files", "tidings", *FLOORS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    links = {f"tidings/{floor}" for floor in FLOORS}
    expected = {
        name if name.startswith("tidings/") else f"tidings/{name}"
        for name in tracked
        if name not in links and (ROOT / name).is_file()
    }
    assert {name for name in files if name.startswith("tidings/")} == expected


def test_the_source_archive_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Each file lies in it once, where it is imported, and a wheel built from it is equal byte for byte."""
    archive = built(ROOT, tmp_path, "sdist")
    with tarfile.open(archive) as opened:
        names = [name.partition("/")[2] for name in opened.getnames()]
        opened.extractall(tmp_path, filter="data")
    assert not [name for name in names if name.partition("/")[0] in FLOORS]
    assert len(names) == len(set(names))
    assert {"tidings/storage/store.py", "tidings/gateway/static/index.html"} <= set(names)
    again = built(tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path / "again", "wheel")
    assert content(again) == content(wheel)


def test_beside_a_project_with_our_names(wheel: Path, tmp_path: Path) -> None:
    """Import, service, page, library and another's provider work where the project has folders called as ours are."""
    python, project = installed(wheel, tmp_path / "environment"), tmp_path / "project"
    make_project(project)
    settings = environment(
        {"PYTHONPATH": str(project), "TIDINGS_ACME_SECRET": SECRET, "PYTHONSAFEPATH": ""}
    )
    printed = subprocess.run(
        [python, "-c", LIBRARY],
        cwd=project,
        env=settings,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    status, version, file = printed.split()
    assert (status, version) == ("succeeded", "3")
    assert Path(file).is_relative_to(tmp_path / "environment")
    asyncio.run(served(python, project, settings))


def installed(wheel: Path, folder: Path) -> Path:
    """The interpreter of a new environment with the wheel.

    The dependencies are those that the tests run with.
    """
    venv.create(folder)
    python = folder / "bin" / "python"
    where = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # As paths alone: what the developer's environment does at its start is not done here.
    (where / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
    ]
    subprocess.run([*command, "--no-index", "--force-reinstall", str(wheel)], check=True)
    return python


def make_project(project: Path) -> None:
    for floor in FLOORS[:1]:
        (project / floor).mkdir(parents=True)
        (project / floor / "__init__.py").write_text(MINE)
    for name in FLOORS[1:]:
        (project / f"{name}.py").write_text(MINE)
    (project / "tests").mkdir()
    (project / "tests" / "__init__.py").write_text(MINE)
    shown = (ROOT / "docs" / "howto" / "providers.md").read_text(encoding="utf-8")
    (code,) = (
        one for one in re.findall(r"```python\n(.*?)```", shown, re.DOTALL) if "open_acme" in one
    )
    (project / "acme_tidings.py").write_text(code)
    metadata = project / "acme_tidings-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tidings\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[tidings.providers]\nacme = acme_tidings:open_acme\n"
    )


async def served(python: Path, project: Path, settings: dict[str, str]) -> None:
    """The installed command serves page and API, and takes the provider's webhook."""
    command = (python.with_name("tidings"), "serve", "--port", "0", "--port-file", "port")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=project, env=settings, stderr=asyncio.subprocess.PIPE
    )
    try:
        await eventually(lambda: (project / "port").exists() or process.returncode is not None, 30)
        assert process.returncode is None
        url = f"http://127.0.0.1:{(project / 'port').read_text()}"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as page:
                assert page.status == 200
                assert "<html" in await page.text()
            async with session.get(f"{url}/static/page/main.js") as script:
                assert script.status == 200
            body = json.dumps({"id": "job-1", "state": "done", "result": "a text"}).encode()
            signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            headers = {"x-acme-signature": signature}
            async with session.post(f"{url}/api/webhooks/acme", data=body, headers=headers) as sent:
                assert sent.status == 200, await sent.text()

            async def record() -> dict[str, object]:
                async with session.get(f"{url}/api/predictions/job-1") as found:
                    return (await found.json()).get("data") or {}

            assert (await eventually(record, 30))["output"] == "a text"
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
