"""Type checkers find a misspelled name or keyword in a program that uses Tidings."""

import subprocess
import sys

import pytest

from tests.support.root import ROOT

PROGRAM = """
import tidings
from tidings import {imported}


async def main() -> None:
    manager = tidings.PredictionStatusManager(await tidings.open_store("memory://"))
    await manager.update("p1", {keyword}="processing")
    await manager.update("p1", progress={progress})
    client = tidings.Client("http://127.0.0.1:8080")
    reveal_type(await client.get("p1"))
    async with tidings.service(tidings.Settings({setting}=0)) as running:
        reveal_type(running.port)
"""
RIGHT = {"imported": "Client", "keyword": "status", "progress": "0.5", "setting": "port"}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What `mypy --strict` says of each program, from one run."""
    folder = tmp_path_factory.mktemp("programs")
    programs = {
        "right": {},
        "name": {"imported": "Clinet"},
        "setting": {"setting": "prot"},
        "keyword": {"keyword": "statuss"},
        "value": {"progress": "'half'"},
    }
    for name, wrong in programs.items():
        (folder / f"{name}.py").write_text(PROGRAM.format(**{**RIGHT, **wrong}))
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--config-file", str(ROOT / "pyproject.toml"), *map(str, folder.glob("*.py"))),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert checked.returncode in {0, 1}, checked.stderr
    return {
        name: [line for line in checked.stdout.splitlines() if f"{name}.py:" in line]
        for name in programs
    }


def test_a_right_program_passes(findings: dict[str, list[str]]) -> None:
    """Nothing is found in a program that is right, and what the calls give has its type."""
    assert [line for line in findings["right"] if "error:" in line] == []
    (record, port) = (line for line in findings["right"] if "Revealed" in line)
    assert record.endswith('"tidings.storage.prediction.Prediction"')
    assert port.endswith(('"int"', '"builtins.int"'))


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("name", "[attr-defined]"),
        ("setting", "[call-arg]"),
        ("keyword", "[call-arg]"),
        ("value", "[arg-type]"),
    ],
)
def test_a_wrong_program_is_found(findings: dict[str, list[str]], program: str, code: str) -> None:
    """A misspelled public name, setting or field, or a value of a wrong type, is an error."""
    errors = [line for line in findings[program] if "error:" in line]
    assert len(errors) == 1, findings[program]
    assert errors[0].endswith(code)
