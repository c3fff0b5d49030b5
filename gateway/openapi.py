"""The specifications that the service gives of itself: OpenAPI 3.1 and AsyncAPI 3.0."""

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.gateway import Gateway
from tidings.gateway.http.problems import Handler
from tidings.gateway.push.protocol import SUBPROTOCOL
from tidings.gateway.schemas import Schema, components, reference
from tidings.storage.prediction import Status

PARAMETERS: dict[str, Schema] = {
    "id": {
        "in": "path",
        "required": True,
        "description": "1 to 256 bytes without spaces, commas and controls",
    },
    "hash": {
        "in": "path",
        "required": True,
        "description": "As in the field that the content stands for: sha256-...",
    },
    "path": {"in": "path", "required": True, "description": "As in the record's assets"},
    "provider": {
        "in": "path",
        "required": True,
        "description": "A provider that is configured here",
    },
    "token": {
        "in": "query",
        "description": "HMAC-SHA256 of the id in the URL with the service's webhook key",
    },
    "status": {"in": "query", "schema": {"enum": [status.value for status in Status]}},
    "owner": {"in": "query"},
    "model": {"in": "query"},
    "tag": {"in": "query"},
    "limit": {"in": "query", "schema": {"type": "integer", "minimum": 1}},
    "cursor": {"in": "query", "description": "From the page before"},
    "fields": {
        "in": "query",
        "description": "Names of members, with commas: the answer holds these alone",
    },
    "predictions": {"in": "query", "description": "Ids, with commas"},
    "all": {"in": "query", "schema": {"enum": ["true"]}},
    "access_token": {
        "in": "query",
        "description": "For browsers, whose event streams send no headers",
    },
    "reason": {"in": "query"},
    "prediction": {"in": "query"},
    "If-None-Match": {"in": "header", "description": "The version that is known"},
    "Prefer": {
        "in": "header",
        "description": "wait=30: with If-None-Match, wait for the next change",
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "The same key and owner give the same prediction. Where the body has a predictionId, the id makes "
        "the request unique, and the key guards the body",
    },
    "Last-Event-ID": {"in": "header", "description": "The version that is known"},
}


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one path, as it is described."""

    method: str
    path: str
    summary: str
    answers: dict[int, str]
    """Per status the name of the body's schema; empty: none. Problems come beside these."""
    problems: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    body: str = ""
    """The name of the request's schema; `*`: whatever a provider sends."""
    open: bool = False
    """No token is needed."""
    media: str = "application/json"


_LIST = ("status", "owner", "model", "tag", "limit", "cursor")
_READ = ("fields", "If-None-Match", "Prefer")
_ID = "/api/predictions/{id}"

OPERATIONS = (
    Operation(
        method="get", path=_ID, summary="Read a prediction", parameters=_READ,
        answers={200: "PredictionAnswer", 304: ""}, problems=(400, 404),
    ),
    Operation(
        method="patch", path=_ID, summary="Report about a prediction", body="Changes",
        answers={200: "PredictionAnswer", 202: "PredictionAnswer"}, problems=(400, 403, 404, 409, 413, 415, 422),
    ),
    Operation(
        method="delete", path=_ID, summary="Delete a prediction",
        answers={204: "", 202: "Accepted"}, problems=(403, 404),
    ),
    Operation(
        method="post", path=_ID + "/cancel", summary="Ask for a prediction to be canceled",
        answers={202: "PredictionAnswer"}, problems=(403, 404, 409),
    ),
    Operation(
        method="get", path=_ID + "/events", summary="Follow a prediction until it ends",
        parameters=("Last-Event-ID", "access_token"), answers={200: "", 204: ""}, problems=(404,),
        media="text/event-stream",
    ),
    Operation(
        method="get", path=_ID + "/blobs/{hash}", summary="Read a field that is too large for its record",
        parameters=("If-None-Match",), answers={200: "", 304: ""}, problems=(404,),
    ),
    Operation(
        method="get", path="/assets/{path}", summary="A file of a finished prediction, by its secret address",
        answers={200: "", 206: "", 302: "", 304: ""}, problems=(404,), open=True, media="*/*",
    ),
    Operation(
        method="get", path="/api/events", summary="Follow several predictions, or all of an owner, a tag or a model",
        parameters=("predictions", "owner", "tag", "model", "all", "limit", "access_token"),
        answers={200: ""}, problems=(400, 403), media="text/event-stream",
    ),
    Operation(
        method="get", path="/api/predictions", summary="List predictions, newest first", parameters=_LIST,
        answers={200: "PredictionList"}, problems=(400,),
    ),
    Operation(
        method="post", path="/api/predictions", summary="Create and submit a prediction", body="NewPrediction",
        parameters=("Idempotency-Key",), answers={201: "WholePrediction", 202: "PredictionAnswer"},
        problems=(400, 403, 409, 413, 415, 422),
    ),
    Operation(
        method="post", path="/api/webhooks/{provider}", summary="A provider's webhook", body="*", open=True,
        answers={200: "Accepted"}, problems=(401, 404, 413, 503),
    ),
    Operation(
        method="post", path="/api/webhooks/{provider}/{id}", summary="A provider's webhook about one prediction",
        body="*", open=True, parameters=("token",), answers={200: "Accepted"}, problems=(401, 404, 413, 503),
    ),
    Operation(
        method="get", path="/api/dead-letters", summary="See what could not be applied",
        parameters=("reason", "prediction", "limit"), answers={200: "DeadLetterList"}, problems=(400, 403),
    ),
    Operation(
        method="post", path="/api/dead-letters/redrive", summary="Try dead letters again", body="Redrive",
        answers={200: "Figures"}, problems=(403, 415, 422),
    ),
    Operation(
        method="get", path="/api/stats", summary="Figures of the parts", answers={200: "Figures"}, problems=(403,)
    ),
    Operation(
        method="get", path="/healthz", summary="Whether it is alive", answers={200: "Health"}, open=True
    ),
    Operation(
        method="get", path="/readyz", summary="Whether it is ready to serve", answers={200: "Health"},
        problems=(503,), open=True,
    ),
    Operation(
        method="get", path="/metrics", summary="Prometheus' text, for loopback and admins", answers={200: ""},
        problems=(403,), media="text/plain",
    ),
)  # fmt: skip


def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidings",
            "version": version,
            "summary": "The state of long-running AI predictions.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "security": [{"token": []}, {}],
        "components": {
            "schemas": components(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def asyncapi(version: str) -> dict[str, Any]:
    """The AsyncAPI document of the WebSocket."""
    ours = (
        "Welcome",
        "Subscribed",
        "Unsubscribed",
        "Snapshot",
        "Change",
        "Deleted",
        "Unknown",
        "Synced",
        "Pong",
    )
    from_server = (*ours, "Error", "Bye")
    from_client = ("Auth", "Subscribe", "Unsubscribe", "Ping")
    messages = {
        name: {"name": name, "payload": reference(name)} for name in (*from_client, *from_server)
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidings",
            "version": version,
            "description": f"The WebSocket subprotocol {SUBPROTOCOL}.",
        },
        "channels": {
            "push": {
                "address": "/api/ws",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "tell": _operation("receive", from_client),
            "hear": _operation("send", from_server),
        },
        "components": {"messages": messages, "schemas": components()},
    }


def specification_handlers(gateway: Gateway, guard: RequestGuard) -> dict[str, Handler]:
    """Per path what serves a specification."""

    def serving(document: Callable[[str], dict[str, Any]]) -> Handler:
        @cache
        def body() -> bytes:  # when it is first asked for: the two are a tenth of the start
            return msgspec.json.format(msgspec.json.encode(document(gateway.version)), indent=1)

        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}

        async def specification(request: web.Request) -> web.StreamResponse:
            guard.check(request)
            return web.Response(body=body(), headers=headers, content_type="application/json")

        return specification

    return {"/openapi.json": serving(openapi), "/asyncapi.json": serving(asyncapi)}


def _described(operation: Operation) -> dict[str, Any]:
    names = [part.strip("{}") for part in operation.path.split("/") if part.startswith("{")]
    answers: dict[str, Any] = {}
    for status, schema in operation.answers.items():
        answers[str(status)] = {
            "description": operation.summary,
            **_content(schema, operation.media, status),
        }
    for status in {*operation.problems, *(() if operation.open else (401, 403, 429, 503))}:
        answers[str(status)] = {
            "description": "A problem",
            **_content("Problem", "application/problem+json", status),
        }
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [_parameter(name) for name in (*names, *operation.parameters)],
        "responses": dict(sorted(answers.items())),
    }
    if operation.body:
        body = {} if operation.body == "*" else reference(operation.body)
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    if operation.open:
        described["security"] = [{}]
    return described


def _content(schema: str, media: str, status: int) -> dict[str, Any]:
    if not schema:
        return {} if status in {204, 304} else {"content": {media: {"schema": {"type": "string"}}}}
    return {"content": {media: {"schema": reference(schema)}}}


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "schema": {"type": "string"}, **PARAMETERS[name]}


def _operation(action: str, messages: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/push"},
        "messages": [{"$ref": f"#/channels/push/messages/{name}"} for name in messages],
    }
