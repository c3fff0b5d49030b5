"""The specifications say what is served, and what is served keeps to them."""

import json
import re
from typing import Any

import httpx
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types

from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.descriptions import MEMBERS, PROPERTIES
from tidings.gateway.openapi import asyncapi, openapi
from tidings.gateway.push.protocol import (
    append_message,
    bye_message,
    deleted_message,
    error_message,
    pong_message,
    snapshot_message,
    subscribed_message,
    synced_message,
    unknown_message,
    unsubscribed_message,
    welcome_message,
)
from tidings.storage.prediction import encode
from tidings.streams.log.protocol import EVENTS, NewRecord

UNDESCRIBED = {
    *("/", "/docs", "/static/{path}", "/{path}"),
    *("/openapi.json", "/asyncapi.json", "/api/ws"),
}


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **openapi("1")})


def test_every_route_is_described() -> None:
    """Each method of each path that the application serves stands in the specification, and nothing else does."""

    async def nothing(request: web.Request) -> web.StreamResponse:
        raise NotImplementedError(request)

    app = SmallService().app(nothing)
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
        and route.method != "HEAD"
        and route.resource.canonical not in UNDESCRIBED
        and not route.resource.canonical.startswith("/{a}")  # other spellings of what is described
    }
    described = {
        (method, path) for path, methods in openapi("1")["paths"].items() for method in methods
    }
    assert described == served


def undescribed(schema: Any, path: str) -> list[str]:
    """The members beneath a schema that say nothing about themselves."""
    if isinstance(schema, list):
        return [found for part in schema for found in undescribed(part, path)]
    if not isinstance(schema, dict):
        return []
    members = schema.get("properties", {})
    here = [f"{path}.{name}" for name, one in members.items() if not one.get("description")]
    deeper = [
        found for name, one in members.items() for found in undescribed(one, f"{path}.{name}")
    ]
    rest = [
        found
        for name, value in schema.items()
        if name not in {"properties", "examples"}
        for found in undescribed(value, path)
    ]
    return here + deeper + rest


def test_every_property_and_parameter_is_described() -> None:
    """Each member of each object says what it means, and so does each parameter."""
    document = openapi("1")
    assert undescribed(document["components"]["schemas"], "") == []
    silent = [
        f"{method} {path}: {one['name']}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for one in operation["parameters"]
        if not one.get("description")
    ]
    assert silent == []


def test_every_description_is_used() -> None:
    """No description is of a member that is not there."""
    used = str(openapi("1")["components"]["schemas"])
    texts = [*PROPERTIES.values(), *MEMBERS.values()]
    assert [text for text in texts if repr(text)[1:-1] not in used] == []


async def test_the_document_is_shown_at_docs() -> None:
    """`/docs` is a page of ours under the strict policy, which takes everything from this service."""
    async with small_service() as service, httpx.AsyncClient(base_url=service.url) as client:
        page = await client.get("/docs")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
        for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert "//" not in path
            assert (await client.get("/" + path.removeprefix("./"))).status_code == 200, path


@pytest.mark.parametrize("document", [openapi("1"), asyncapi("1")], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """Each `$ref` names something in the document, and each schema is a schema."""

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            here = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return here + [found for value in part.values() for found in references(value)]
        return (
            [found for value in part for found in references(value)]
            if isinstance(part, list)
            else []
        )

    for reference in references(document):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step.replace("~1", "/")]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_example_keeps_to_its_schema() -> None:
    """The record that the specification shows could be one."""
    (example,) = openapi("1")["components"]["schemas"]["Prediction"]["examples"]
    validator("Prediction").validate(example)


async def test_answers_keep_to_the_specification() -> None:
    """Status, content type and body of real answers are what is described for them."""
    document = openapi("1")
    async with (
        small_service() as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        await service.put(prediction("p1", tags=["t"], payload={"seed": 2**60}, output=None))
        await service.log.append(EVENTS, [NewRecord(b"x", b"not json")])
        requests: list[tuple[str, str, str, Any]] = [
            ("get", "/api/predictions/{id}", "/api/predictions/p1", None),
            ("get", "/api/predictions/{id}", "/api/predictions/p1?fields=status", None),
            ("get", "/api/predictions/{id}", "/api/predictions/nope", None),
            ("get", "/api/predictions", "/api/predictions", None),
            ("get", "/api/predictions", "/api/predictions?limit=0", None),
            (
                "patch",
                "/api/predictions/{id}",
                "/api/predictions/p1",
                {"status": "succeeded", "output": [1]},
            ),
            ("patch", "/api/predictions/{id}", "/api/predictions/p1", {"status": "failed"}),
            ("patch", "/api/predictions/{id}", "/api/predictions/p1", {"colour": "red"}),
            ("post", "/api/predictions/{id}/cancel", "/api/predictions/p1/cancel", None),
            ("post", "/api/predictions", "/api/predictions", {"provider": "x", "model": "m"}),
            ("delete", "/api/predictions/{id}", "/api/predictions/p1", None),
            ("get", "/api/predictions/{id}/events", "/api/predictions/%20/events", None),
            ("get", "/api/events", "/api/events", None),
            ("post", "/api/webhooks/{provider}", "/api/webhooks/x", {}),
            ("get", "/api/dead-letters", "/api/dead-letters", None),
            ("post", "/api/dead-letters/redrive", "/api/dead-letters/redrive", {"all": True}),
            ("get", "/api/deliveries", "/api/deliveries?limit=5", None),
            ("get", "/api/stats", "/api/stats", None),
            ("get", "/healthz", "/healthz", None),
            ("get", "/readyz", "/readyz", None),
        ]
        for method, path, url, body in requests:
            answer = await client.request(method, url, json=body)
            described = document["paths"][path][method]["responses"].get(str(answer.status_code))
            assert described is not None, (method, url, answer.status_code)
            if "content" not in described:
                assert answer.content == b""
                continue
            media = answer.headers["content-type"]
            assert media in described["content"], (method, url, media)
            schema = {**described["content"][media]["schema"], "components": document["components"]}
            Draft202012Validator(schema).validate(answer.json())
        for name in ("/openapi.json", "/asyncapi.json"):
            assert (await client.get(name)).headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Welcome", welcome_message("s", 25000)),
        ("Welcome", welcome_message("s", 25000, anonymous=True)),
        ("Subscribed", subscribed_message(1)),
        ("Unsubscribed", unsubscribed_message("a")),
        ("Snapshot", snapshot_message(encode(prediction("p1")))),
        ("Append", append_message("p1", 34, " lazy dog", None, None)),
        ("Append", append_message("p1", 34, " lazy dog", 7, 1764000004000)),
        ("Deleted", deleted_message("p1", 3)),
        ("Unknown", unknown_message("p1")),
        ("Synced", synced_message(1, True)),
        ("Pong", pong_message(None)),
        ("Error", error_message(1, "forbidden", "no")),
        ("Bye", bye_message(1000)),
    ],
)
def test_messages_keep_to_the_specification(name: str, message: bytes) -> None:
    """What the WebSocket says is what the AsyncAPI document describes."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": asyncapi("1")["components"]}
    Draft202012Validator(schema).validate(json.loads(message))
