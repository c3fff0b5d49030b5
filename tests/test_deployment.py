"""What is deployed: the compose file is valid, and says nothing that the program does not know."""

import re
import shutil
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


SMALL = ROOT / "deploy" / "compose.small.yml"


@pytest.mark.parametrize("file", [COMPOSE, SMALL], ids=lambda file: file.name)
def test_the_compose_files_are_valid(file: Path) -> None:
    """Each file is one of the Compose specification."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(file),
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


def test_the_small_one_is_kafka_and_one_tidings() -> None:
    """The small file starts Kafka and one Tidings that does everything, authenticated, with few rights."""
    small = YAML(typ="safe").load(SMALL)["services"]
    assert set(small) == {"kafka", "tidings"}
    one = small["tidings"]
    given = {name: value for name, value in environment(one).items() if "${" not in value}
    settings = load_settings(
        {}, environ={**given, "TIDINGS_JWT_SECRET": "j" * 32}, folder=Path("/nowhere")
    )
    check_serving(settings)
    assert settings.authenticates
    assert (settings.everything, settings.log) == (True, "kafka://kafka:9092")
    assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"])
    assert all(port.startswith("127.0.0.1:") for port in one["ports"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_valid(tmp_path: Path) -> None:
    """Systemd has nothing to say against the unit, once its program is one that is installed here."""
    unit = tmp_path / "tidings.service"
    text = (ROOT / "deploy" / "tidings.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/tidings/.venv/bin/tidings", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "tidings.service" not in done.stderr, done.stderr


def test_it_is_the_whole_topology() -> None:
    """Two processors, two gateways behind a proxy, a process of each other role, log, stores, provider and monitoring are there."""
    roles = sorted(service["command"][-1] for service in ROLES.values())
    twice = ["gateway", "gateway", "processor", "processor"]
    assert roles == ["archiver", *twice[:2], "notifier", *twice[2:], "reconciler"]
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
