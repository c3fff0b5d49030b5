"""The specifications that the service gives of itself: OpenAPI 3.1 and AsyncAPI 3.0."""

from typing import Any

from tidings.gateway.lists.search import MAX_TEXT
from tidings.gateway.push.protocol import SUBPROTOCOL
from tidings.gateway.routes import HEALTH_ROUTES, ROUTES, Route
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
    "status": {
        "in": "query",
        "description": "Those with this status",
        "schema": {"enum": [status.value for status in Status]},
    },
    "latest": {
        "in": "query",
        "description": "1: the newest of its attempts, if it was tried again",
        "schema": {"enum": ["1"]},
    },
    "kind": {
        "in": "query",
        "description": "group: groups alone, which are left out otherwise",
        "schema": {"enum": ["group"]},
    },
    "group": {
        "in": "query",
        "description": "The members of this group, each by its newest attempt",
    },
    "owner": {"in": "query", "description": "Those of this owner"},
    "model": {"in": "query", "description": "Those of this model"},
    "tag": {"in": "query", "description": "Those with this tag"},
    "provider=": {"name": "provider", "in": "query", "description": "Those of this provider"},
    "error": {
        "in": "query",
        "description": "Those with this error code, or with these words in their error, whatever their case",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
    },
    "limit": {
        "in": "query",
        "description": "At most so many",
        "schema": {"type": "integer", "minimum": 1},
    },
    "cursor": {"in": "query", "description": "From the page before"},
    "text": {
        "in": "query",
        "description": "Words of the id or the prompt, whatever their case. A record with exactly "
        "this id comes first. Where the store has no index of prompts, the answer may be short: "
        "`searched` says how many records were looked through, and its cursor goes on. A prompt over 32 KiB is not searched: "
        "`unsearchable` says how many records have one",
        "schema": {"type": "string", "maxLength": MAX_TEXT},
    },
    "text=append": {
        "name": "text",
        "in": "query",
        "description": "Growing texts come in pieces, as events `append`",
        "schema": {"enum": ["append"]},
    },
    "offset": {
        "in": "query",
        "description": "A place from `Stream-Next-Offset`; `-1`: the beginning, `now`: the end. Of a "
        "piece: the bytes before it",
    },
    "live": {
        "in": "query",
        "description": "long-poll: wait for the next piece; sse: an event stream of the pieces",
        "schema": {"enum": ["long-poll", "sse"]},
    },
    "count": {
        "in": "query",
        "description": "`true`: the answer has `counts`, of the filters without status and text",
        "schema": {"enum": ["true"]},
    },
    "createdAfter": {
        "in": "query",
        "description": "Created at this time or later: ISO 8601, or ms since the epoch",
    },
    "createdBefore": {"in": "query", "description": "Created before this time"},
    "groupBy": {
        "in": "query",
        "description": "Of owner, model, provider and day (UTC, of the creation), with commas: a sum "
        "for each. None: one sum",
    },
    "from": {
        "in": "query",
        "description": "Created at this time or later: ISO 8601, or ms since the epoch",
    },
    "to": {"in": "query", "description": "Created before this time"},
    "format": {
        "in": "query",
        "description": "`ndjson`: whole records, one a line. With `limit` a page, whose header "
        "`Tidings-Next-Cursor` goes on; without it all, as a stream",
        "schema": {"enum": ["json", "ndjson"]},
    },
    "fields": {
        "in": "query",
        "description": "Names of members, with commas: the answer holds these alone",
    },
    "predictions": {"in": "query", "description": "Ids, with commas"},
    "all": {"in": "query", "description": "Everything", "schema": {"enum": ["true"]}},
    "access_token": {
        "in": "query",
        "description": "For browsers, whose event streams send no headers",
    },
    "reason": {"in": "query", "description": "Those with this reason"},
    "state": {
        "in": "query",
        "description": "open: without those that were tried again or dismissed",
        "schema": {"enum": ["open"]},
    },
    "prediction": {"in": "query", "description": "Those of this prediction"},
    "If-None-Match": {"in": "header", "description": "The version that is known"},
    "Prefer": {
        "in": "header",
        "description": "wait=30: with If-None-Match, wait for the next change",
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "The same key and owner give the same prediction. "
        "If the body has a predictionId, the id makes "
        "the request unique, and the key guards the body",
    },
    "Last-Event-ID": {"in": "header", "description": "The version that is known"},
    "lastEventId": {
        "in": "query",
        "description": "The same, from clients that cannot send the header",
    },
}


def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    routes: tuple[Route[Any], ...] = (*ROUTES, *HEALTH_ROUTES)
    for route in routes:
        if route.summary:
            paths.setdefault(route.path, {})[route.method.lower()] = _described(route)
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
        "Append",
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


def _described(route: Route[Any]) -> dict[str, Any]:
    names = [part.strip("{}") for part in route.path.split("/") if part.startswith("{")]
    answers: dict[str, Any] = {}
    for status, schema in route.answers.items():
        answers[str(status)] = {
            "description": route.summary,
            **_content(schema, route.media, status),
        }
    for status in {*route.problems, *(() if route.open else (401, 403, 429, 503))}:
        answers[str(status)] = {
            "description": "A problem",
            **_content("Problem", "application/problem+json", status),
        }
    described: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [_parameter(name) for name in (*names, *route.parameters)],
        "responses": dict(sorted(answers.items())),
    }
    if route.body == "text":
        described["requestBody"] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    elif route.body:
        body = {} if route.body == "*" else reference(route.body)
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    if route.open:
        described["security"] = [{}]
    return described


def _content(schema: str, media: str, status: int) -> dict[str, Any]:
    if not schema:
        if status in {204, 304}:
            return {}
        # Of a stream of events a schema would describe each of them: AsyncAPI has their messages.
        described = {} if media == "text/event-stream" else {"schema": {"type": "string"}}
        return {"content": {media: described}}
    return {"content": {media: {"schema": reference(schema)}}}


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "schema": {"type": "string"}, **PARAMETERS[name]}


def _operation(action: str, messages: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/push"},
        "messages": [{"$ref": f"#/channels/push/messages/{name}"} for name in messages],
    }
