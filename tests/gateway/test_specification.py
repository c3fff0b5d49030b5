"""The specifications are valid, complete, and true: answers of the service are as they say."""

import json
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.app import build_app
from gateway.specification import EXAMPLES, OPERATIONS, asyncapi, openapi
from tests.gateway.small_service import SmallService, prediction, small_service

OPENAPI = openapi("1.2.3")
ASYNCAPI = asyncapi("1.2.3")
APART = {"/", "/static/{path}", "/api/ws", "/{path}"}
"""Pages, and what AsyncAPI describes."""


def check(value: Any, schema: Any, document: dict[str, Any]) -> None:
    """Hold a value against a schema of the document."""
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def references(value: Any) -> set[str]:
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*(references(part) for part in value.values()))
    return set().union(*(references(part) for part in value)) if isinstance(value, list) else set()


def test_openapi_is_valid() -> None:
    """The document is one of OpenAPI 3.1, its examples fit its schemas, and no schema is unused."""
    OpenAPIV31SpecValidator(json.loads(json.dumps(OPENAPI))).validate()
    for operations in OPENAPI["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    if "example" in content:
                        check(content["example"], content["schema"], OPENAPI)
    used = {reference.rpartition("/")[2] for reference in references(OPENAPI)}
    assert used == set(OPENAPI["components"]["schemas"])


async def test_openapi_names_every_route() -> None:
    """What the application routes is in the document, and nothing else."""
    app = build_app(SmallService().gateway)
    routes = set()
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if path not in APART and route.method != "HEAD":
            routes.add((route.method.lower(), path))
    assert {(operation.method, operation.path) for operation in OPERATIONS} == routes


def test_asyncapi_is_whole() -> None:
    """Every reference leads somewhere, and every message's example fits its payload."""
    for reference in references(ASYNCAPI):
        found: Any = ASYNCAPI
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    messages = ASYNCAPI["components"]["messages"]
    assert set(messages) == set(EXAMPLES)
    for message in messages.values():
        for example in message["examples"]:
            check(example["payload"], message["payload"], ASYNCAPI)
    said = [reference["$ref"] for one in ASYNCAPI["operations"].values() for reference in one["messages"]]
    assert len(said) == len(set(said)) == len(messages)


@pytest.mark.parametrize(
    ("method", "path", "template", "body", "status"),
    [
        ("GET", "/api/predictions/p1", "/api/predictions/{id}", None, 200),
        ("GET", "/api/predictions/nobody", "/api/predictions/{id}", None, 404),
        ("GET", "/api/predictions", "/api/predictions", None, 200),
        ("GET", "/api/predictions?status=odd", "/api/predictions", None, 400),
        ("PATCH", "/api/predictions/p1", "/api/predictions/{id}", {"progress": 0.5}, 200),
        ("PATCH", "/api/predictions/p1", "/api/predictions/{id}", {"status": "starting"}, 409),
        ("PATCH", "/api/predictions/p1", "/api/predictions/{id}", {"odd": 1}, 422),
        ("POST", "/api/predictions/p1/cancel", "/api/predictions/{id}/cancel", None, 202),
        ("POST", "/api/predictions", "/api/predictions", {"provider": "x", "model": "m"}, 422),
        ("POST", "/api/webhooks/nobody", "/api/webhooks/{provider}", {}, 404),
        ("GET", "/api/stats", "/api/stats", None, 200),
        ("GET", "/healthz", "/healthz", None, 200),
        ("GET", "/readyz", "/readyz", None, 200),
        ("GET", "/openapi.json", "/openapi.json", None, 200),
        ("GET", "/asyncapi.json", "/asyncapi.json", None, 200),
        ("GET", "/api/dead-letters", "/api/dead-letters", None, 200),
        ("GET", "/metrics", "/metrics", None, 200),
    ],
)
async def test_answers_are_as_described(
    method: str, path: str, template: str, body: dict[str, Any] | None, status: int
) -> None:
    """An answer's status, media type and body are those of the document."""
    async with small_service() as service, httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        await service.put(prediction("p1", version=1))
        answer = await client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    described = OPENAPI["paths"][template][method.lower()]["responses"]
    media = answer.headers["content-type"].partition(";")[0]
    contents = described[str(status)]["content"] if str(status) in described else described["default"]["content"]
    assert media in contents
    if media != "text/plain":
        check(answer.json(), contents[media]["schema"], OPENAPI)
