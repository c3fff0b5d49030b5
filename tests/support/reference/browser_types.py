"""The types of the JavaScript client: `python -m tests.support.reference.browser_types` writes them.

The record's fields come from their table, an order and everything else that goes over HTTP from the
OpenAPI document.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.root import ROOT
from tidings.gateway.schemas import components
from tidings.streams.rules.fields import FIELDS

PAGE = ROOT / "gateway" / "static" / "tidings.d.ts"
API = ROOT / "clients" / "js" / "src" / "api.d.ts"

_fields = re.compile(
    r"(?<=  deleted\?: undefined;\n)(.*?)(?=  assetsError\?: string;\n)", re.DOTALL
)
_order = re.compile(r"(?<=export interface NewPrediction \{\n)(.*?)(?=\}\n)", re.DOTALL)
_NAMES = {"Blob": "LargeField"}
"""What the client calls otherwise: `Blob` is the browser's own."""
_ABOUT = {field.wire: field.about for field in FIELDS if field.about} | {
    "predictionId": "One is made unless said.",
    "timeout": "Ms that it may take, instead of a deadline.",
}


def lines() -> str:
    """The members of `Prediction` that events report."""
    found = []
    for field in FIELDS:
        if field.about:
            found.append(f"  /** {field.about} */")
        found.append(f"  {field.wire}?: {field.typescript};")
    return "\n".join(found) + "\n"


def type_of(schema: Mapping[str, Any], *, absent: bool = False) -> str:
    """The TypeScript of a JSON Schema; `absent`: what may be left out is never null."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _NAMES.get(name, name)
    if "const" in schema:
        return str(json.dumps(schema["const"]))
    if "enum" in schema:
        # A text that may be left out is absent where it is empty.
        values = [value for value in schema["enum"] if value or not absent]
        return " | ".join(str(json.dumps(value)) for value in values)
    if "anyOf" in schema:
        parts = [
            type_of(part) for part in schema["anyOf"] if not (absent and part.get("type") == "null")
        ]
    else:
        kinds = schema.get("type", "unknown")
        parts = [
            _plain(kind, schema)
            for kind in (kinds if isinstance(kinds, list) else [kinds])
            if not (absent and kind == "null")
        ]
    return " | ".join(dict.fromkeys(parts))


def _plain(kind: str, schema: Mapping[str, Any]) -> str:
    if kind == "array":
        items = type_of(schema.get("items", {}))
        return f"({items})[]" if " " in items else f"{items}[]"
    if kind == "object" and "properties" in schema:
        return "{ " + " ".join(_member(*member) for member in _members(schema)) + " }"
    if kind == "object":
        return f"Record<string, {type_of(schema.get('additionalProperties') or {})}>"
    return {"integer": "number"}.get(kind, kind)


def _members(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    for name, member in schema["properties"].items():
        yield name, member, name in schema.get("required", ())


def _member(name: str, schema: Mapping[str, Any], required: bool, *, order: bool = False) -> str:
    spelled = name if name.isidentifier() or name.startswith("$") else json.dumps(name)
    kind = type_of(schema, absent=order or not required)
    return f"{spelled}{'' if required else '?'}: {kind};"


def _interface(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    if about := " ".join(str(schema.get("description", "")).split()):
        yield f"/** {about} */"
    name = _NAMES.get(name, name)
    if schema.get("type") == "object" and "properties" in schema:
        yield f"export interface {name} {{"
        order = name == "NewPrediction"
        yield from (f"  {_member(*member, order=order)}" for member in _members(schema))
        yield "}"
    else:
        yield f"export type {name} = {type_of(schema)};"
    yield ""


def order() -> str:
    """The members of `NewPrediction`."""
    found = []
    for name, schema, required in _members(components()["NewPrediction"]):
        if name in _ABOUT:
            found.append(f"  /** {_ABOUT[name]} */")
        found.append(f"  {_member(name, schema, required, order=True)}")
    return "\n".join(found) + "\n"


def api() -> str:
    """The types of everything that goes over HTTP."""
    head = (
        "/** What goes over HTTP, from the OpenAPI document of the service (`/openapi.json`). */\n"
    )
    found = [line for name, schema in components().items() for line in _interface(name, schema)]
    return "\n".join([head, *found])


def written() -> str:
    """The file with the members as they are now."""
    text = PAGE.read_text(encoding="utf-8")
    for pattern, content in ((_fields, lines()), (_order, order())):
        found = pattern.search(text)
        assert found is not None, f"{PAGE}: the members are not where they were"
        text = text[: found.start()] + content + text[found.end() :]
    return text


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
    API.write_text(api(), encoding="utf-8")
