"""The compose file as the tests read it."""

import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from tests.support.root import ROOT

COMPOSE = ROOT / "docker-compose.yml"


def content() -> dict[str, Any]:
    """The whole file."""
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return found


def services() -> dict[str, Any]:
    """Its services."""
    return dict(content()["services"])


def filled(value: str, given: Mapping[str, str]) -> str:
    """A value as Compose fills it in: from what is given, else by its default."""

    def fill(match: re.Match[str]) -> str:
        name, operator, text = match.groups()
        return given.get(name) or (text if operator == ":-" else "whsec_" + "x" * 64)

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", fill, value)


def environment(
    service: Mapping[str, Any], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A service's environment."""
    return {
        name: filled(str(value), given or {})
        for name, value in service.get("environment", {}).items()
    }
