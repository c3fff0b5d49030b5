"""What is deployed: the compose file is valid, and says nothing that the program does not know."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.compose import COMPOSE, content, environment, services
from tests.support.root import ROOT
from tidings.cli.main import _parser
from tidings.config.checks import check_serving
from tidings.config.loader import load_settings

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
ROLES = {
    name: service for name, service in services().items() if "serve" in service.get("command", ())
}


def test_the_compose_file_is_valid() -> None:
    """The file is one of the Compose specification."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ROLES)
def test_its_settings_are_known_and_serve(name: str) -> None:
    """Every setting of a role is one of the program's, its command is understood, and it may start with both."""
    arguments = _parser().parse_args(ROLES[name]["command"])
    settings = load_settings(
        {"role": arguments.role}, environ=environment(ROLES[name]), folder=Path("/nowhere")
    )
    check_serving(settings)
    assert settings.authenticates
    assert settings.log.startswith("kafka://")


def test_it_is_the_whole_topology() -> None:
    """Two processors, two gateways behind a proxy, archiver, reconciler, log, stores, provider and monitoring are there."""
    roles = sorted(service["command"][-1] for service in ROLES.values())
    assert roles == ["archiver", "gateway", "gateway", "processor", "processor", "reconciler"]
    assert {"proxy", "demo", "kafka", "postgres", "valkey", "prometheus", "grafana"} <= set(
        services()
    )


def test_names_lead_to_services() -> None:
    """Every host that a setting or a file of its own names is a service of the file, and every file is there."""
    names = set(services())
    configs = {name: ROOT / config["file"] for name, config in content()["configs"].items()}
    assert [name for name, file in configs.items() if not file.exists()] == []
    used = {
        config["source"] for service in services().values() for config in service.get("configs", ())
    }
    assert used == set(configs)
    scraped = YAML(typ="safe").load(configs["prometheus"])["scrape_configs"][0]["static_configs"][
        0
    ]["targets"]
    assert sorted(scraped) == sorted(f"{name}:8080" for name in ROLES)
    texts = [value for service in services().values() for value in environment(service).values()]
    texts += [configs[name].read_text(encoding="utf-8") for name in ("grafana-datasource",)]
    hosts = {
        host
        for text in texts
        for host in re.findall(r"(?://|@)(?:[^@/\s]*@)?([a-z][a-z0-9-]*):\d+", text)
    }
    assert hosts - {"localhost"} <= names
    assert {"kafka", "postgres", "valkey", "demo", "proxy", "prometheus"} <= hosts


def test_it_runs_with_few_rights() -> None:
    """Tidings runs without root, on a file system that it cannot write but for its data, and is asked for its health."""
    for service in ROLES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "ports" not in service
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root|0)\w+$", last_stage, re.MULTILINE)
    assert "/healthz" in last_stage
    assert DOCKERFILE.count("\nFROM ") == 2
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_what_the_image_takes_is_there() -> None:
    """Each file that the image is built from exists, and is let through to the build."""
    let_through = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    sources = [word for line in copied for word in line.split()[:-1]]
    assert sorted(sources) == sorted(let_through)
    for source in sources:
        assert (ROOT / source).exists()
