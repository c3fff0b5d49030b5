"""An environment with the wheel and some of the distributions that are installed here, and no others."""

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def needed(requirements: list[str], extra: str = "") -> set[str]:
    """The distributions that pip would install for these, by their names."""
    found: set[str] = set()
    waiting = [(Requirement(text), extra) for text in requirements]
    while waiting:
        one, of = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": of}):
            continue
        name = one.name.lower().replace("_", "-")
        if name != "tidings":
            found.add(name)
        for inner in ["", *one.extras]:
            for text in distribution(one.name).requires or ():
                further = Requirement(text)
                if further.name.lower() not in found or further.extras:
                    if (
                        inner == ""
                        and further.marker is not None
                        and "extra" in str(further.marker)
                    ):
                        continue
                    waiting.append((further, inner))
    return found


def base_requirements() -> list[str]:
    """What the distribution requires without an extra."""
    texts = distribution("tidings").requires or []
    return [text for text in texts if "extra ==" not in text]


def tops(name: str) -> set[Path]:
    """The files and folders that a distribution has in the folder of packages."""
    one: Distribution = distribution(name)
    root = Path(sysconfig.get_path("purelib"))
    found = set()
    for file in one.files or ():
        first = file.parts[0]
        if first not in ("..", "__pycache__") and not first.endswith(".pth"):
            found.add(root / first)
    return found


def size_of(name: str) -> int:
    """Bytes of a distribution's files."""
    files = (Path(str(file.locate())) for file in distribution(name).files or ())
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")


def environment_of(wheel: Path, folder: Path, names: set[str]) -> Path:
    """The interpreter of a new environment with the wheel and these distributions."""
    venv.create(folder)
    python = folder / "bin" / "python"
    vars_ = {"base": str(folder), "platbase": str(folder)}
    where = Path(sysconfig.get_path("purelib", vars=vars_))
    for name in names:
        for path in tops(name):
            target = where / path.name
            if not target.exists():
                target.symlink_to(path)
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True)
    return python
