"""What is served, as OpenAPI 3.1 and AsyncAPI 3.0 documents.

Schemas come from the structs that the handlers encode and decode; the routes are listed here, and a test holds the list
against the application's.
"""

from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, Struct, UnsetType

from gateway import protocol
from gateway.access import Door
from gateway.creating import CREATE_FIELDS
from gateway.problems import Handler
from gateway.writes import EVENT_FIELDS
from storage.prediction import Prediction
from streams.event import Event

Json = dict[str, Any]

RECORD: Json = {
    "predictionId": "p1",
    "status": "succeeded",
    "version": 3,
    "createdAt": 1764000000000,
    "updatedAt": 1764000004000,
    "prompt": "a cat",
    "model": "acme/paint",
    "imageUrl": "https://example.com/cat.png",
    "transitions": [
        {"from": None, "to": "starting", "at": 1764000000000, "position": "0:17"},
        {"from": "starting", "to": "processing", "at": 1764000001000, "position": "0:18"},
        {"from": "processing", "to": "succeeded", "at": 1764000004000, "position": "0:21"},
    ],
}
PROBLEM: Json = {
    "type": "about:blank",
    "title": "Prediction not found",
    "status": 404,
    "detail": "There is no prediction with this id, or none that you may see.",
    "code": "not-found",
    "error": "Prediction not found",
}

_TEXT: Json = {"type": "string"}
_ONE: Json = {
    "type": "object",
    "required": ["success", "data"],
    "properties": {"success": {"const": True}, "data": {"$ref": "#/components/schemas/Prediction"}},
}
_MANY: Json = {
    "type": "object",
    "required": ["success", "data", "cursor"],
    "properties": {
        "success": {"const": True},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
        "cursor": {"type": ["string", "null"]},
    },
}


class Operation(Struct, frozen=True, kw_only=True):
    """One route."""

    method: str
    path: str
    summary: str
    answers: dict[int, str]
    """Status and what it means; 4xx and 5xx are problems."""
    gives: Json | None = None
    """The schema of the 2xx answers that carry JSON."""
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: Json | None = None
    media: str = "application/json"
    """Of the 2xx answer."""
    open: bool = False
    """Needs no token."""


_STREAM_QUERY = (
    ("predictions", "comma list of ids"),
    ("owner", "all of an owner"),
    ("tag", "all with a tag"),
    ("model", "all of a model"),
    ("all", "true: everything"),
    ("limit", "how many of the newest at first"),
    ("access_token", "the token, for browsers' EventSource, which sends no headers"),
)
_IF_NONE_MATCH = ("If-None-Match", "the ETag of the version that is known")
_LETTERS = (("reason", "with this reason alone"), ("prediction", "of this prediction alone"))

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="get",
        path="/api/predictions/{id}",
        summary="A prediction as it stands",
        answers={200: "the record", 304: "the version is known", 404: "none, or none that you may see"},
        gives=_ONE,
        query=(("fields", "comma list of the record's fields to give"),),
        headers=(_IF_NONE_MATCH, ("Prefer", "wait=30: wait so many seconds for the next change")),
    ),
    Operation(
        method="patch",
        path="/api/predictions/{id}",
        summary="Report fields or a status",
        answers={
            200: "the record",
            202: "taken, and not applied within 5 s",
            404: "no such prediction",
            409: "the rules forbid it",
            422: "a field is unknown or invalid",
        },
        gives=_ONE,
        body={"$ref": "#/components/schemas/Report"},
    ),
    Operation(
        method="delete",
        path="/api/predictions/{id}",
        summary="Delete a prediction",
        answers={202: "taken, and not applied within 5 s", 204: "gone", 404: "no such prediction"},
    ),
    Operation(
        method="post",
        path="/api/predictions/{id}/cancel",
        summary="Ask for a cancellation",
        answers={202: "the record; its end comes from the provider", 404: "no such prediction", 409: "it has ended"},
        gives=_ONE,
    ),
    Operation(
        method="get",
        path="/api/predictions/{id}/events",
        summary="The changes of a prediction as Server-Sent Events, until it has ended",
        answers={200: "events snapshot, change, deleted, unknown, synced", 404: "not an id"},
        query=(_STREAM_QUERY[-1],),
        headers=(("Last-Event-ID", "the version that is known"),),
        media="text/event-stream",
    ),
    Operation(
        method="get",
        path="/api/events",
        summary="The changes of several predictions as Server-Sent Events",
        answers={200: "events snapshot, change, deleted, unknown, synced", 400: "nothing to watch is named"},
        query=_STREAM_QUERY,
        media="text/event-stream",
    ),
    Operation(
        method="get",
        path="/api/predictions",
        summary="Predictions, newest first by creation",
        answers={200: "a page", 400: "a filter that cannot be served"},
        gives=_MANY,
        query=(
            ("status", "with this status"),
            ("owner", "of this owner"),
            ("model", "of this model"),
            ("tag", "with this tag"),
            ("limit", "50; at most 1000"),
            ("cursor", "from the page before"),
        ),
    ),
    Operation(
        method="post",
        path="/api/predictions",
        summary="Write a prediction down and submit it to its provider",
        answers={
            201: "the record",
            202: "written down, and not applied within 5 s",
            409: "the id is in use",
            422: "a field is invalid, the key was used for another body, or nothing is submitted to this provider",
        },
        gives=_ONE,
        headers=(("Idempotency-Key", "the same key gives the same prediction"),),
        body={"$ref": "#/components/schemas/NewPrediction"},
    ),
    *(
        Operation(
            method="post",
            path=path,
            summary="A provider's webhook, proven on its raw bytes",
            answers={
                200: "it is durably written",
                401: "not proven",
                404: "the provider is not configured",
                413: "too large",
                503: "the log has not taken it; come back",
            },
            gives={"type": "object"},
            query=query,
            body={},
            open=True,
        )
        for path, query in (
            ("/api/webhooks/{provider}", ()),
            ("/api/webhooks/{provider}/{id}", (("token", "proves that the address is ours"),)),
        )
    ),
    Operation(
        method="get",
        path="/api/dead-letters",
        summary="What could not be applied, and why (admin)",
        answers={200: "letters and counts"},
        gives={"type": "object"},
        query=(*_LETTERS, ("limit", "how many of the newest")),
    ),
    Operation(
        method="post",
        path="/api/dead-letters/redrive",
        summary="Append dead letters to the events again (admin)",
        answers={200: "how many"},
        gives={"type": "object"},
        body={"type": "object"},
    ),
    Operation(
        method="get",
        path="/api/stats",
        summary="Figures of the parts (admin)",
        answers={200: "by part"},
        gives={"type": "object"},
    ),
    *(
        Operation(
            method="get",
            path=f"/{name}.json",
            summary=f"{title} of this service",
            answers={200: "the document"},
            gives={"type": "object"},
            open=True,
        )
        for name, title in (("openapi", "OpenAPI 3.1 document"), ("asyncapi", "AsyncAPI 3.0 document"))
    ),
    Operation(
        method="get",
        path="/healthz",
        summary="Whether the process answers",
        answers={200: "it does"},
        gives={"type": "object"},
        open=True,
    ),
    Operation(
        method="get",
        path="/readyz",
        summary="Whether every part is ready",
        answers={200: "all are", 503: "some are not, and why"},
        gives={"type": "object"},
        open=True,
    ),
    Operation(
        method="get",
        path="/metrics",
        summary="Prometheus metrics, for loopback or admin",
        answers={200: "the text format"},
        media="text/plain",
    ),
)


def document_handler(document: Json, door: Door) -> Handler:
    """The handler that answers with a document."""
    body = msgspec.json.encode(document)

    async def read(request: web.Request) -> web.StreamResponse:
        door.check(request)
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=body, headers=headers, content_type="application/json")

    return read


def openapi(version: str) -> Json:
    """The HTTP side as an OpenAPI 3.1 document.

    Args:
        version: Of the service.
    """
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidings", "version": version, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "a JWT or an API key"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(operation: Operation) -> Json:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    for place, given in (("query", operation.query), ("header", operation.headers)):
        parameters += [{"name": name, "in": place, "description": about, "schema": _TEXT} for name, about in given]
    found: Json = {
        "summary": operation.summary,
        "operationId": _name(operation),
        "parameters": parameters,
        "responses": {str(status): _answer(operation, status) for status in operation.answers},
    }
    found["responses"]["default"] = _problem("an error, with what to do about it")
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    if operation.open:
        found["security"] = []
    return found


def _name(operation: Operation) -> str:
    words = [part.strip("{}").replace("-", "_") for part in operation.path.split("/") if part and part != "api"]
    return "_".join([operation.method, *words])


def _answer(operation: Operation, status: int) -> Json:
    about = operation.answers[status]
    if status >= 400:
        return _problem(about)
    answer: Json = {"description": about}
    if operation.media != "application/json":
        answer["content"] = {operation.media: {"schema": _TEXT}}
    elif operation.gives is not None and status not in {204, 304}:
        content: Json = {"schema": operation.gives}
        if operation.gives is _ONE and status != 202:
            content["example"] = {"success": True, "data": RECORD}
            answer["headers"] = {"ETag": {"description": "the version", "schema": _TEXT}}
        elif operation.gives is _MANY:
            content["example"] = {"success": True, "data": [RECORD], "cursor": None}
        elif operation.gives is _ONE:
            content["schema"] = {"type": "object"}
        answer["content"] = {"application/json": content}
    return answer


def _problem(about: str) -> Json:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": about,
        "content": {"application/problem+json": {"schema": schema, "example": PROBLEM}},
    }


def _plain(kind: type[Struct]) -> type[Struct]:
    """The same fields as a schema can say them: free JSON is anything, and what may be left out has no default."""
    fields: list[Any] = []
    spelled = {}
    for field in msgspec.structs.fields(kind):
        type_ = Any if field.type is Raw else field.type
        fields.append((field.name, type_) if field.required else (field.name, type_ | UnsetType, UNSET))
        spelled[field.name] = field.encode_name
    return msgspec.defstruct(kind.__name__, fields, kw_only=True, rename=spelled)


def _schemas() -> Json:
    kinds = [_plain(Prediction), _plain(Event)]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    fields = found.pop("Event")["properties"]
    report = {name: schema for name, schema in fields.items() if name in EVENT_FIELDS}
    create = {name: schema for name, schema in fields.items() if name in CREATE_FIELDS}
    for unused in ("EventType", "Archive"):
        found.pop(unused, None)
    found["Report"] = {"type": "object", "properties": report, "examples": [{"status": "processing", "progress": 0.5}]}
    found["NewPrediction"] = {"type": "object", "required": ["provider", "model"], "properties": create}
    found["Problem"] = {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "error"],
        "properties": {name: {"type": "integer"} if name == "status" else _TEXT for name in PROBLEM},
    }
    return found


# ---- the WebSocket ----

_CLIENT: tuple[type[Struct], ...] = (protocol.Auth, protocol.Subscribe, protocol.Unsubscribe, protocol.Ping)

_REF: Json = {"type": ["integer", "string"]}
_SERVER: dict[str, tuple[str, Json]] = {
    "welcome": (
        "the client is authenticated; a ping comes every `heartbeat` ms",
        {"session": _TEXT, "heartbeat": {"type": "integer"}},
    ),
    "subscribed": ("the subscription stands; snapshots follow", {"ref": _REF}),
    "snapshot": ("a record as it stands", {"prediction": {"$ref": "#/components/schemas/Prediction"}}),
    "change": ("a record that changed", {"prediction": {"$ref": "#/components/schemas/Prediction"}}),
    "deleted": ("a prediction is gone", {"predictionId": _TEXT, "version": {"type": "integer"}}),
    "unknown": ("there is no such prediction yet, or none that may be seen", {"predictionId": _TEXT}),
    "synced": ("all snapshots were sent; `more`: the limit left some out", {"ref": _REF, "more": {"type": "boolean"}}),
    "unsubscribed": ("the subscription has ended", {"ref": _REF}),
    "pong": ("the answer to a ping", {"ref": _REF}),
    "error": ("a request was not carried out; the connection stays", {"ref": _REF, "code": _TEXT, "message": _TEXT}),
    "bye": ("come back after `retryAfter` ms", {"retryAfter": {"type": "integer"}}),
}
EXAMPLES: dict[str, Json] = {
    "welcome": {"type": "welcome", "session": "s-1", "heartbeat": 25000},
    "subscribed": {"type": "subscribed", "ref": 1},
    "snapshot": {"type": "snapshot", "prediction": RECORD},
    "change": {"type": "change", "prediction": RECORD},
    "deleted": {"type": "deleted", "predictionId": "p1", "version": 7},
    "unknown": {"type": "unknown", "predictionId": "p9"},
    "synced": {"type": "synced", "ref": 1, "more": False},
    "unsubscribed": {"type": "unsubscribed", "ref": 2},
    "pong": {"type": "pong", "ref": 3},
    "error": {"type": "error", "ref": 1, "code": "forbidden", "message": "not yours to watch"},
    "bye": {"type": "bye", "retryAfter": 1200},
    "auth": {"type": "auth", "token": "eyJhbGciOiJIUzI1NiJ9..."},
    "subscribe": {"type": "subscribe", "ref": 1, "predictions": ["p1", "p2"], "known": {"p1": 3}},
    "unsubscribe": {"type": "unsubscribe", "ref": 2, "predictions": ["p1"]},
    "ping": {"type": "ping", "ref": 3},
}


def asyncapi(version: str) -> Json:
    """The WebSocket as an AsyncAPI 3.0 document.

    Args:
        version: Of the service.
    """
    _, schemas = msgspec.json.schema_components(
        [_plain(Prediction), *_CLIENT], ref_template="#/components/schemas/{name}"
    )
    said = {kind.__name__.lower(): (kind.__doc__ or "", schemas.pop(kind.__name__)) for kind in _CLIENT}
    messages = {name: _message(name, about, schema) for name, (about, schema) in said.items()}
    for name, (about, fields) in _SERVER.items():
        required = ["type", *(field for field in fields if field != "ref")]
        schema = {"type": "object", "required": required, "properties": {"type": {"const": name}, **fields}}
        messages[name] = _message(name, about, schema)
    channel = "#/channels/websocket"
    return {
        "asyncapi": "3.0.0",
        "info": {"title": f"Tidings, {protocol.SUBPROTOCOL}", "version": version},
        "defaultContentType": "application/json",
        "channels": {
            "websocket": {
                "address": "/api/ws",
                "description": f"One JSON object per text frame; subprotocol {protocol.SUBPROTOCOL}.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            # The service's point of view: it receives what clients say, and sends the rest.
            action: {
                "action": action,
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
            }
            for action, names in (("receive", list(said)), ("send", list(_SERVER)))
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _message(name: str, about: str, schema: Json) -> Json:
    return {"name": name, "summary": about.split("\n")[0], "payload": schema, "examples": [{"payload": EXAMPLES[name]}]}
