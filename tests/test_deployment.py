"""What is deployed: the compose file is valid, and says nothing that the program does not know."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tidings.setting_sources import load
from tidings.settings import check_serving

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def services() -> dict[str, Any]:
    """The services of the compose file."""
    content: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return dict(content["services"])


def filled(value: str) -> str:
    """A value as Compose fills it in: what must be given is given, what has a default has it."""
    value = re.sub(r"\$\{\w+:\?[^}]*\}", "x" * 64, value)
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_the_compose_file_is_valid() -> None:
    """The file is one of the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_its_settings_are_known_and_serve() -> None:
    """Every setting in it is one of the program's, and the service may start with them."""
    checked = 0
    for service in services().values():
        environ = {name: filled(str(value)) for name, value in service.get("environment", {}).items()}
        if not any(name.startswith("TIDINGS_") for name in environ):
            continue
        settings = load(environ=environ, folder=Path("/nowhere"))
        check_serving(settings)
        assert settings.authenticates
        checked += 1
    assert checked >= 1


def test_it_runs_with_few_rights() -> None:
    """Tidings runs without root, on a file system that it cannot write but for its data, and is asked for its health."""
    tidings = services()["tidings"]
    assert tidings["read_only"] is True
    assert tidings["cap_drop"] == ["ALL"]
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root|0)\w+$", last_stage, re.MULTILINE)
    assert "/healthz" in last_stage
    assert DOCKERFILE.count("\nFROM ") == 2
    assert all(port.startswith("127.0.0.1:") for port in tidings["ports"])


def test_what_the_image_takes_is_there() -> None:
    """Each file that the image is built from exists, and is let through to the build."""
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    sources = [word for line in copied for word in line.split()[:-1]]
    assert sorted(sources) == sorted(let_through)
    for source in sources:
        assert (ROOT / source).exists()
