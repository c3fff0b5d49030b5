"""The page about the settings, out of their definition: `python -m tests.support.reference.setting_names` writes it."""

import ast
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from tests.support.root import ROOT
from tidings.config import settings
from tidings.config.loader import CHOICES, LISTS, env_name
from tidings.config.settings import DERIVED, FLAGS_ONLY, SECRETS, Settings
from tidings.config.toml import PARTS
from tidings.streams.providers.configuration import Configuration

PAGE = ROOT / "docs" / "reference" / "settings.md"
HIDDEN = frozenset({"shared_port", "parent"})
"""Flags that one process of ours gives another."""

SECTIONS = {
    "host": "The process",
    "log": "Log and store",
    "cloudflare_token": "Stores at Cloudflare",
    "topic_prefix": "Topics and time to live",
    "cache_ttl": "The cache",
    "public_url": "Predictions that are submitted here",
    "jwt_secret": "Clients, their rights and limits",
    "assets": "Files and sizes",
    "traces": "Traces",
}
"""By the setting that each begins with, in the order of the settings."""

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


def kind(name: str, hint: Any) -> str:
    """What a setting takes, in a word or two."""
    if name in CHOICES:
        return CHOICES[name]
    if name in LISTS:
        return "a comma list"
    least = most = None
    parts = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is not None and type(None) in get_args(hint):
        return kind(name, parts[0])
    if hasattr(hint, "__metadata__"):
        meta = next(one for one in hint.__metadata__ if isinstance(one, Meta))
        hint, least, most = hint.__origin__, meta.ge, meta.le
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    word = {int: "a whole number", float: "a number", bool: "1 or 0", str: "text"}.get(
        hint, "a path"
    )
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
    hints = get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        if field.name in DERIVED or field.name in FLAGS_ONLY:
            continue
        secret = " Secret." if field.name in SECRETS else ""
        cells = (
            f"`{env_name(field.name)}`",
            kind(field.name, hints[field.name]),
            shown(field.default),
        )
        yield field.name, f"| {' | '.join(cells)} | {texts[field.name]}{secret} |"


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
    hints = get_type_hints(Configuration, include_extras=True)
    for part in sorted(PARTS, key=list(hints).index):
        takes = "a comma list" if part == "secret" else kind(part, hints[part])
        yield f"| `TIDINGS_NAME_{part.upper()}` | {takes} | {texts[part]} |"


def flags() -> Iterator[str]:
    """What is a flag of `tidings serve` alone."""
    yield from ("", "## Flags of `tidings serve` alone", "", "| flag | |", "|---|---|")
    texts = explained(Settings, Path(settings.__file__))
    for name in Settings.__struct_fields__:
        if name in FLAGS_ONLY - HIDDEN:
            text = texts[name].partition(": ")[2]
            yield f"| `--{name.replace('_', '-')}` | {text[:1].upper()}{text[1:]} |"


def lines() -> Iterator[str]:
    """The page."""
    yield HEAD.rstrip("\n")
    for name, row in rows():
        if name in SECTIONS:
            yield from (
                "",
                f"## {SECTIONS[name]}",
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
