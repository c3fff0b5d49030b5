"""The page about the settings, out of their definition: `python -m tests.support.reference.setting_names` writes it."""

import ast
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.root import ROOT
from tidings.config import settings
from tidings.config.settings import FIELDS, NAMES, Field, Settings, fields_of
from tidings.config.toml import PARTS
from tidings.streams.providers.configuration import Configuration

PAGE = ROOT / "docs" / "reference" / "settings.md"
HEAD = """# Settings

Written by `python -m tests.support.reference.setting_names` from their definition (`tidings/config/settings.py`). They are read once, at the start, in this order: flags of the command, environment, `tidings.toml` in the working folder (or `--config FILE`), default.

An empty variable counts as not set; an unknown name stops the start. In the file a setting has its name in lower case without `TIDINGS_`, and a table is the beginning of a name: `[jwt]` with `secret = "..."` is `TIDINGS_JWT_SECRET`. Times are seconds, sizes bytes. [Operating](../howto/operations.md) says what they are for.
"""


PROVIDERS = (
    "`NAME` is a provider's name in capitals: `TIDINGS_REPLICATE_SECRET`. In the file each has a table, "
    "`[providers.replicate]`, where options of its own stand too: [providers](../howto/providers.md)."
)


def explained(owner: type[Struct], module: Path) -> dict[str, str]:
    """What stands beneath each field of a class in its module."""
    body = next(
        node.body
        for node in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__
    )
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = (
                below.value.value
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                else ""
            )
            found[field.target.id] = " ".join(str(text).split()).replace("None:", "none:")
    return found


def kind(field: Field) -> str:
    """What a setting takes, in a word or two."""
    if field.choices:
        return field.choices
    if field.is_list:
        return "a comma list"
    word = {int: "a whole number", float: "a number", bool: "1 or 0", str: "text"}.get(
        field.type, "a path"
    )
    least, most = (None, None) if field.limits is None else (field.limits.ge, field.limits.le)
    if least is not None and most is not None:
        return f"{word}, {least} to {most}"
    return word if least is None else f"{word}, {least} or more"


def shown(value: Any) -> str:
    """A default as the environment would give it."""
    if value is None or value in ("", ()):
        return "none"
    if value is False:
        return "off"
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


def rows() -> Iterator[tuple[str, str]]:
    """The name of each setting and its row."""
    texts = explained(Settings, Path(settings.__file__))
    for name, field in FIELDS.items():
        if name in NAMES:
            secret = " Secret." if field.setting.secret else ""
            cells = (f"`{field.variable}`", kind(field), shown(field.default))
            yield name, f"| {' | '.join(cells)} | {texts[name]}{secret} |"


def of_providers() -> Iterator[str]:
    """The settings that every provider has."""
    yield from (
        "",
        "## Providers",
        "",
        "`NAME` is a provider's name in capitals: `TIDINGS_REPLICATE_SECRET`. In the file",
    )
    yield "each has a table, `[providers.replicate]`, where options of its own stand too: [providers](../howto/providers.md)."
    yield from ("", "| environment | takes | |", "|---|---|---|")
    module = Path(sys.modules[Configuration.__module__].__file__ or "")
    texts: Mapping[str, str] = explained(Configuration, module)
    for part, field in fields_of(Configuration).items():
        if part not in PARTS:
            continue
        yield f"| `TIDINGS_NAME_{part.upper()}` | {kind(field)} | {texts[part]} |"


def flags() -> Iterator[str]:
    """What is a flag of `tidings serve` alone."""
    yield from ("", "## Flags of `tidings serve` alone", "", "| flag | |", "|---|---|")
    texts = explained(Settings, Path(settings.__file__))
    for name, field in FIELDS.items():
        if field.setting.source == "flag":
            text = texts[name].partition(": ")[2]
            yield f"| `--{name.replace('_', '-')}` | {text[:1].upper()}{text[1:]} |"


def lines() -> Iterator[str]:
    """The page."""
    yield HEAD.rstrip("\n")
    for name, row in rows():
        if (section := FIELDS[name].section) is not None:
            yield from (
                "",
                f"## {section}",
                "",
                "| environment | takes | default | |",
                "|---|---|---|---|",
            )
        yield row
    yield from of_providers()
    yield from flags()


def page() -> str:
    """The page's text."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
