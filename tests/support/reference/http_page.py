"""The page about the HTTP interface, out of the OpenAPI document."""

from collections.abc import Iterator
from typing import Any

from tests.support.reference.schema_words import cell, kind, members
from tests.support.root import ROOT
from tidings.gateway.openapi import asyncapi, openapi

PAGE = ROOT / "docs" / "reference" / "http.md"
HEAD = """# HTTP

Every endpoint and every object. Each gateway serves the same as an OpenAPI 3.1 document at `/openapi.json`, and as a page at `/docs`; `tidings openapi` prints it.

Send a token as `Authorization: Bearer TOKEN`; endpoints marked *open* need none. Every answer with a status from 400 on is a `Problem`; [errors](errors.md) lists the codes. Each endpoint may answer 401, 403, 429 and 503, unless it is open."""


def endpoints() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each endpoint."""
    for path, methods in openapi("")["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def messages() -> frozenset[str]:
    """The names of the schemas that are messages of the WebSocket."""
    return frozenset(asyncapi("")["components"]["messages"])


def lines() -> Iterator[str]:
    """The page."""
    yield from (HEAD, "", "## Endpoints")
    for method, path, operation in endpoints():
        yield from ("", f"### {method} {path}", "")
        yield f"{operation['summary']}.{' *Open.*' if 'security' in operation else ''}"
        if operation["parameters"]:
            yield from ("", "| parameter | in | takes | |", "|---|---|---|---|")
        for one in operation["parameters"]:
            about = cell(one.get("description", ""))
            yield f"| `{one['name']}` | {one['in']} | {kind(one['schema'])} | {about} |"
        if body := operation.get("requestBody"):
            ((media, content),) = body["content"].items()
            yield from ("", f"Body: {_content(media, content)}.")
        answers = [
            f"{status} {_contents(answer)}".strip()
            for status, answer in operation["responses"].items()
            if int(status) < 400
        ]
        problems = [status for status in operation["responses"] if int(status) >= 400]
        yield from (
            "",
            f"Answers: {'; '.join(answers)}. Problems: {', '.join(problems) or 'none'}.",
        )
    yield from ("", "## Objects")
    left_out = messages()
    for name, schema in openapi("")["components"]["schemas"].items():
        if name not in left_out:
            yield from ("", f"### {name}", "")
            if about := schema.get("description"):
                yield from (cell(about), "")
            yield from members(schema)


def _contents(answer: dict[str, Any]) -> str:
    return ", ".join(_content(*one) for one in answer.get("content", {}).items())


def _content(media: str, content: dict[str, Any]) -> str:
    found = content.get("schema")
    if media == "application/json":
        return "any JSON" if not found else kind(found)
    return f"`{media}`"
