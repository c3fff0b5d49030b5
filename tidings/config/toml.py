"""Reading `tidings.toml`: plain settings by their flat names, and a table for each provider.

A provider's table is `[providers.NAME]`, or `[NAME]` if the name is one of the known providers.
`kind` makes it one of another provider; what is none of the settings that every provider has is an
option of that provider.
"""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from tidings.config.settings import SettingsError
from tidings.streams.providers.registry import built_in, manifest

PARTS = ("jwks_url", "secret", "token", "url", "tolerance", "concurrency", "rate")
"""Settings that every provider has. `fal_jwks_url` ends with `url` too, so the longer one comes
first."""


class ProviderTable(Struct, frozen=True):
    """A provider's table."""

    label: str
    """As the file names it."""
    settings: dict[str, Any]
    """By the names in `PARTS`."""
    kind: str | None
    options: dict[str, Any]


class SettingsFile(Struct, frozen=True):
    """What the file says."""

    plain: dict[str, Any]
    """By key, tables joined with `_`."""
    providers: dict[str, ProviderTable]
    """By the provider's name."""


EMPTY = SettingsFile({}, {})


def underscored(name: str) -> str:
    """A name as settings spell it."""
    return name.lower().replace("-", "_")


def read(file: Path, known: Collection[str]) -> SettingsFile:
    """What a file says.

    Args:
        file: The file.
        known: Names of providers.

    Raises:
        SettingsError: It cannot be read, or a provider's table has a key that nobody knows.
    """
    content = _content(file)
    tables = content.pop("providers", {})
    if not isinstance(tables, dict) or not all(
        isinstance(table, dict) for table in tables.values()
    ):
        raise SettingsError(
            f"{file}: providers: takes a table for each provider: [providers.replicate]"
        )
    providers = {
        name: _table(file, name, f"providers.{name}", table) for name, table in tables.items()
    }
    for name in [
        name for name, value in content.items() if name in known and isinstance(value, dict)
    ]:
        if name in providers:
            raise SettingsError(
                f"{file}: {name}: is there as [providers.{name}] too; keep one of them"
            )
        providers[name] = _table(file, name, name, content.pop(name))
    return SettingsFile(dict(_flat(content)), providers)


def _content(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(
            f"--config: {file} cannot be read ({error.strerror or error})"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file}: is not UTF-8; save it as UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: is not TOML: {error}") from None


def _table(file: Path, name: str, label: str, table: Mapping[str, Any]) -> ProviderTable:
    kind = table.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise SettingsError(f"{file}: {label}.kind: takes the name of a provider, such as generic")
    settings = {
        underscored(key): value for key, value in table.items() if underscored(key) in PARTS
    }
    options = {
        key: value
        for key, value in table.items()
        if underscored(key) not in PARTS and key != "kind"
    }
    # Those of other kinds, and of third parties, are checked when the provider is opened.
    own = manifest(name).options if kind is None and name in built_in() else None
    for key in options:
        if own is not None and key not in own:
            has = ", ".join([*PARTS, *sorted(own)])
            raise SettingsError(f"{file}: {label}.{key}: is not a setting; a provider has {has}")
    return ProviderTable(label, settings, kind, options)


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{before}_{key}" if before else key
        if isinstance(value, dict):
            yield from _flat(value, name)
        else:
            yield name, value
