"""The dependencies.

A list of what each is for, who maintains it and how old it is, held against pyproject.toml.

The policy: a dependency that reads what strangers send, or that every installation has, is released
at least every two years and maintained by more than a person's spare time, or the list says why it
is kept all the same. Whoever adds one looks up these things and writes them down here.
"""

import re
import tomllib
from datetime import date
from typing import NamedTuple

import pytest

from tests.support.root import ROOT

CHECKED = date(2026, 11, 30)
"""When the list was last compared with the registry."""
OLDEST = 730
"""Days since the newest release."""


class Dependency(NamedTuple):
    """What is known of a dependency."""

    newest: str
    released: date
    """Its newest files, pre-releases included."""
    maintainer: str
    serves: str
    alone: str = ""
    """Why it is kept although one person maintains it."""


LIST = {
    "aiohttp": Dependency("3.14.5", date(2026, 10, 11), "aio-libs", "HTTP server, downloads"),
    "aiokafka": Dependency("0.14.0", date(2026, 10, 17), "aio-libs", "the log on Kafka"),
    "asyncpg": Dependency("0.32.0", date(2026, 10, 6), "MagicStack", "the store on Postgres"),
    "cryptography": Dependency("50.0.2", date(2026, 9, 30), "PyCA", "signatures, keys"),
    "httpx": Dependency("0.28.1", date(2026, 8, 31), "Encode", "the client, calls to providers"),
    "idna": Dependency(
        "3.20",
        date(2026, 9, 17),
        "K. Davies",
        "origins in other scripts",
        alone="comes with aiohttp and httpx, and is small, tables for the most part",
    ),
    "msgspec": Dependency("0.23.0", date(2026, 11, 28), "three maintainers", "JSON, settings"),
    "obstore": Dependency("0.12.1", date(2026, 10, 27), "Development Seed", "object storage"),
    "opentelemetry-exporter-otlp-proto-http": Dependency(
        "1.45.2", date(2026, 10, 29), "CNCF", "traces"
    ),
    "opentelemetry-sdk": Dependency("1.45.2", date(2026, 10, 29), "CNCF", "traces"),
    "prometheus-client": Dependency("0.26.0", date(2026, 7, 24), "Prometheus", "metrics"),
    "pyjwt": Dependency(
        "2.15.1", date(2026, 9, 28), "J. Padilla and others", "tokens of clients, JWKS"
    ),
    "pynacl": Dependency("1.6.2", date(2026, 1, 1), "PyCA", "signatures of Ed25519"),
    "redis": Dependency("8.1.0", date(2026, 7, 30), "Redis", "the store on Redis and Valkey"),
    "rich": Dependency("15.0.0", date(2026, 4, 12), "Textualize", "tables in the terminal"),
    "structlog": Dependency(
        "26.1.0",
        date(2026, 6, 6),
        "H. Schlawack",
        "log lines",
        alone="paid for by Tidelift, in use everywhere, and reads nothing from outside",
    ),
    "uvloop": Dependency("0.23.0", date(2026, 10, 1), "MagicStack", "the event loop"),
    "websockets": Dependency(
        "17.4",
        date(2026, 10, 30),
        "A. Augustin",
        "handshake and frames",
        alone="paid for by Tidelift, and the reference for its protocol in Python",
    ),
}


def required() -> dict[str, str]:
    """What is installed with Tidings and its extras: name and range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    found = {}
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        match = re.match(r"([A-Za-z0-9.\-]+)(?:\[[^\]]*\])?([^;]*)", line)
        assert match is not None
        if match[1] == "tidings":  # an extra that names the others
            continue
        found[match[1].lower()] = match[2].strip()
    return found


def locked() -> dict[str, str]:
    """Name and version of everything in the lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = (line.partition(";")[0].rstrip(" \\") for line in lines if re.match(r"[a-z0-9]", line))
    return dict(pin.split("==") for pin in pins)


def test_every_dependency_is_known() -> None:
    """The list and pyproject.toml name the same; a new one is looked up before it is used."""
    assert set(LIST) == set(required())


@pytest.mark.parametrize("name", LIST)
def test_a_dependency_is_alive(name: str) -> None:
    """Its newest release is younger than two years, somebody maintains it, and we use it for something."""
    one = LIST[name]
    assert (CHECKED - one.released).days <= OLDEST
    assert one.maintainer
    assert one.serves


def test_the_lock_pins_what_is_required() -> None:
    """Every dependency is in the lock, by version and hash, no newer than the list knows, from no address of its own."""
    pinned = locked()
    assert set(required()) <= set(pinned)
    for name, one in LIST.items():
        assert _numbers(pinned[name]) <= _numbers(one.newest), name
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = re.findall(r"^[a-z0-9][^\n]*==(?:[^\n]*\\\n)+[^\n]*", text, re.MULTILINE)
    assert len(entries) == len(pinned)
    assert all("--hash=sha256:" in entry for entry in entries)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
