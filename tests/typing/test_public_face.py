"""Type checkers find a misspelled name or keyword in a program that uses Tidings, and know every public name."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import tidings
from tests.support import node
from tests.support.root import ROOT

PROGRAM = """
import tidings
from tidings import Client, Status


async def main() -> None:
    manager = tidings.PredictionStatusManager(await tidings.open_store("memory://"))
    await manager.update("p1", status="processing", progress=0.5)
    await manager.mark_as_succeeded("p1", "https://pictures.example/1.png")
    async with Client("http://127.0.0.1:8080", token="a token") as client:
        record = await client.get("p1")
        reveal_type(record)
        print(record.status is Status.SUCCEEDED, record.image_url)
        page = await client.list(owner="ada", limit=10)
        print([one.prediction_id for one in page.data])
        async for update in client.watch(owner="ada"):
            print(update.prediction_id)
    async with tidings.service(tidings.Settings(port=0)) as running:
        reveal_type(running.port)
"""
TYPOS: Mapping[str, tuple[str, str]] = {
    "name": ("import Client", "import Clinet"),
    "function": ("tidings.open_store", "tidings.opne_store"),
    "setting": ("Settings(port=0)", "Settings(prot=0)"),
    "field": ('status="processing"', 'statuss="processing"'),
    "value": ("progress=0.5", 'progress="half"'),
    "method": ("mark_as_succeeded", "mark_as_suceeded"),
    "option": ("token=", "tokne="),
    "member": ("Status.SUCCEEDED", "Status.SUCEEDED"),
    "attribute": ("record.image_url", "record.imageurl"),
    "filter": ('list(owner="ada"', 'list(onwer="ada"'),
    "selection": ('watch(owner="ada"', 'watch(ownr="ada"'),
    "update": ("update.prediction_id", "update.predictionId"),
    "service": ("running.port", "running.prot"),
    "kind": ("limit=10", 'limit="10"'),
}
PUBLIC: list[str] = tidings.__dict__["__all__"]
EVERY_NAME = "import tidings\n" + "".join(
    f"reveal_type(tidings.{name})\n" for name in sorted(PUBLIC)
)


def programs() -> Mapping[str, str]:
    """Each program by its name: the right one, one for each typo, and one with every public name."""
    for good, _ in TYPOS.values():
        assert PROGRAM.count(good) == 1, good
    wrong = {name: PROGRAM.replace(good, bad) for name, (good, bad) in TYPOS.items()}
    return {"right": PROGRAM, "every_name": EVERY_NAME, **wrong}


Findings = Mapping[str, list[tuple[str, str]]]
"""Severity and message, by program."""


def by_mypy(folder: Path) -> Findings:
    """What `mypy --strict` says, from one run."""
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--output=json"),
            *("--config-file", str(ROOT / "pyproject.toml"), *map(str, folder.glob("*.py"))),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert checked.returncode in {0, 1}, checked.stderr
    said = [json.loads(line) for line in checked.stdout.splitlines()]
    return _sorted([(one["file"], one["severity"], one["message"]) for one in said])


def by_pyright(folder: Path) -> Findings:
    """What pyright says in its strict mode, from one run."""
    configuration = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "include": ["."]}
    (folder / "pyrightconfig.json").write_text(json.dumps(configuration))
    command = [str(node.tool("pyright")), "--outputjson", "--pythonpath", sys.executable]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert checked.returncode in {0, 1}, checked.stderr
    said = json.loads(checked.stdout)["generalDiagnostics"]
    return _sorted([(one["file"], one["severity"], one["message"]) for one in said])


def _sorted(said: list[tuple[str, str, str]]) -> Findings:
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in programs()}
    for file, severity, message in said:
        found[Path(file).stem].append((severity, message))
    return found


CHECKERS: Mapping[str, Callable[[Path], Findings]] = {"mypy": by_mypy, "pyright": by_pyright}


@pytest.fixture(scope="module", params=CHECKERS)
def findings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What a type checker says of each program."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, text in programs().items():
        (folder / f"{name}.py").write_text(text)
    return CHECKERS[request.param](folder)


def errors(findings: Findings, program: str) -> list[str]:
    return [message for severity, message in findings[program] if severity == "error"]


def test_a_right_program_passes(findings: Findings) -> None:
    """Nothing is found in a program that is right, and what the calls give has its type."""
    assert errors(findings, "right") == []
    said = " ".join(message for severity, message in findings["right"] if severity != "error")
    assert "Prediction" in said
    assert "int" in said


@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_is_found(findings: Findings, typo: str) -> None:
    """A misspelled public name, setting, field, option or member, or a value of a wrong type, is an error."""
    assert errors(findings, typo), findings[typo]


def test_every_public_name_has_a_type(findings: Findings) -> None:
    """Editors complete what is public, although it is loaded when it is first used: no name is unknown."""
    assert errors(findings, "every_name") == []
    said = [message for _, message in findings["every_name"]]
    assert len(said) == len(PUBLIC)
    assert not [message for message in said if '"Unknown"' in message or '"Any"' in message]
