"""JSON Schemas in words, for the pages of the reference."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


def kind(schema: Schema) -> str:
    """What a schema takes, in a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"] if value != "")
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(part) for part in schema["anyOf"]))
    kinds = schema.get("type", "any JSON")
    words = [_plain(one, schema) for one in (kinds if isinstance(kinds, list) else [kinds])]
    return " or ".join(words)


def _plain(name: str, schema: Schema) -> str:
    if name == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(name, name)


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def members(schema: Schema) -> Iterator[str]:
    """A table of the members of an object, or what else it is."""
    if "properties" not in schema:
        yield f"{kind(schema)}."
        return
    yield from ("| member | type | | |", "|---|---|---|---|")
    needed = schema.get("required", ())
    for name, member in schema["properties"].items():
        about = cell(member.get("description", ""))
        yield f"| `{name}` | {kind(member)} | {'required' if name in needed else ''} | {about} |"
