"""JSON Schemas of what goes over the wire, made from the structs that the code uses."""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from tidings.gateway.api.create import CREATE_FIELDS
from tidings.gateway.api.dead_letters import Redrive
from tidings.gateway.api.mutations import EVENT_FIELDS
from tidings.gateway.descriptions import described
from tidings.gateway.push.protocol import Auth, Ping, Subscribe, Unsubscribe
from tidings.storage.prediction import Prediction
from tidings.streams.notifications.address import MAX_URL
from tidings.streams.notifications.delivery import EVENTS
from tidings.streams.rules.event import Event
from tidings.streams.rules.groups import MAX_MEMBERS
from tidings.streams.rules.retries import MOST, Elsewhere, RetryPolicy

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"

EXAMPLE: Schema = {
    "predictionId": "vcscvthbaxrm80cq9xqtcbaw4m",
    "status": "processing",
    "version": 2,
    "createdAt": 1764000000000,
    "updatedAt": 1764000004000,
    "prompt": "a jersey",
    "provider": "replicate",
    "progress": 0.5,
    "transitions": [
        {"from": None, "to": "starting", "at": 1764000000000, "position": "0:17"},
        {"from": "starting", "to": "processing", "at": 1764000004000, "position": "0:18"},
    ],
}
"""A record on its way."""


def reference(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": REFERENCE.format(name=name)}


_retry = msgspec.structs.fields(Elsewhere)


def components() -> dict[str, Schema]:
    """Every named schema."""
    create = _like(Event, "NewPrediction", CREATE_FIELDS, required=frozenset({"provider", "model"}))
    structs: list[Any] = [
        _like(Prediction, "Prediction"),
        _like(Event, "Changes", EVENT_FIELDS),
        create,
        Redrive,
        RetryPolicy,
        msgspec.defstruct("Answer", [("answer", Any), ("questionNumber", int | None, None)]),
        msgspec.defstruct("Retry", [(one.name, one.type, None) for one in _retry]),
        Auth,
        Subscribe,
        Unsubscribe,
        Ping,
    ]
    _, schemas = msgspec.json.schema_components(structs, ref_template=REFERENCE)
    found: dict[str, Schema] = {name: _without_defaults(schema) for name, schema in schemas.items()}
    found["Prediction"]["examples"] = [EXAMPLE]
    found["NewPrediction"]["properties"]["retries"] = {
        "anyOf": [{"type": "integer", "minimum": 0, "maximum": MOST}, reference("RetryPolicy")]
    }
    found["NewPrediction"]["properties"]["timeout"] = {
        "description": "Ms that it may take, instead of a deadline.",
        "type": "number",
        "exclusiveMinimum": 0,
    }
    found["Prediction"]["properties"]["retriedWith"] = reference("RetriedWith")
    found["Prediction"]["properties"]["retries"] = found["NewPrediction"]["properties"]["retries"]
    found["NewPrediction"]["properties"]["webhook"] = {
        "description": "The https address of a server that is told of its steps, signed.",
        "type": "string",
        "format": "uri",
        "maxLength": MAX_URL,
    }
    found["NewPrediction"]["properties"]["webhookEvents"] = {
        "description": "The statuses that it is told of; the last ones if it is left out. `waiting`: "
        "that a person is asked, too.",
        "type": "array",
        "items": {"enum": list(EVENTS)},
        "minItems": 1,
    }
    found["Prediction"]["properties"]["webhook"] = {
        "description": "The server that is told of its steps: its host. In the topics `sealed` stands "
        "beside it, the address encrypted.",
        "type": "object",
        "properties": {
            "host": {"type": "string", "description": "And the port, if it is not the usual one."}
        },
        "required": ["host"],
    }
    found["Prediction"]["properties"]["webhookEvents"] = found["NewPrediction"]["properties"][
        "webhookEvents"
    ]
    whole = found["NewPrediction"]["properties"]
    shared = {
        name: schema for name, schema in whole.items() if name not in {"predictionId", "owner"}
    }
    silent = {"description": "As in an order; null: the group's is not told of this member."}
    # Of all that may be left out this alone may be null too, and means something then.
    webhook = silent | {"anyOf": [{**shared["webhook"]}, {"const": None}]}
    member = {"type": "object", "properties": {**shared, "webhook": webhook}}
    found["NewGroup"] = _object(
        {"orders": {"type": "array", "items": member, "minItems": 1, "maxItems": MAX_MEMBERS}},
        {
            **shared,
            "owner": whole["owner"],
            "group": {
                "description": "The group's id; true, or absent: any.",
                "anyOf": [{"type": "string"}, {"const": True}],
            },
        },
    )
    found["NewOrder"] = {"anyOf": [reference("NewPrediction"), reference("NewGroup")]}
    for name in ("Prediction", "NewPrediction"):
        found[name]["properties"]["retries"] = {
            "anyOf": [{"type": "integer"}, reference("RetryPolicy")]
        }
    return described(found | _hand_made())


def _like(
    struct: type[Struct], name: str, only: frozenset[str] | None = None, required: Any = None
) -> Any:
    """The struct as its JSON is: fields by their names on the wire, raw JSON as anything."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        if only is not None and field.encode_name not in only:
            continue
        kind = Any if field.type is Raw else field.type
        needed = field.encode_name in required if required is not None else field.required
        wire = _identifier(field.encode_name)
        fields.append((wire, kind) if needed else (wire, kind, None))
    rename = {
        _identifier(field.encode_name): field.encode_name
        for field in msgspec.structs.fields(struct)
    }
    return msgspec.defstruct(name, fields, kw_only=True, rename=rename)


def _identifier(name: str) -> str:
    return name.replace("/", "_")


def _without_defaults(schema: Any) -> Any:
    """A member that is left out is absent: there is no default that would stand for it."""
    if isinstance(schema, dict):
        return {
            name: _without_defaults(value) for name, value in schema.items() if name != "default"
        }
    if isinstance(schema, list):
        return [_without_defaults(value) for value in schema]
    return schema


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def _hand_made() -> dict[str, Schema]:
    yes: Schema = {"const": True}
    text: Schema = {"type": "string"}
    number: Schema = {"type": "integer"}
    record = reference("Prediction")
    gone: Schema = {"predictionId": text}
    whom: Schema = {"type": "array", "items": reference("RetriedWith")}
    by_status: Schema = {"type": "object", "additionalProperties": number}
    counts: Schema = {
        "type": ["object", "null"],
        "properties": {"total": number, "complete": {"type": "boolean"}, "byStatus": by_status},
        "description": "How many there are, by status; not complete: at least so many. null if "
        "the store cannot count, or the caller may see some records alone",
    }

    delivery = _object(
        dict.fromkeys(("predictionId", "host", "id", "type"), text)
        | dict.fromkeys(("attempts", "since", "due"), number)
        | {"error": {"type": ["string", "null"]}}
    )

    def message(name: str, **members: Schema) -> Schema:
        return _object(
            {"type": {"const": name}, **members}, {"ref": {"type": ["integer", "string"]}}
        )

    return {
        "RetriedWith": _object({}, {"provider": text, "model": text}),
        "RetryPolicy": _object(
            {"max": number},
            {"backoff": {"type": "number"}, "on": {"type": "array", "items": text}, "then": whom},
        ),
        "Problem": _object(
            dict.fromkeys(("type", "title", "detail", "code", "error", "errorCode"), text)
            | {"status": number, "success": {"const": False}}
        ),
        "Accepted": _object({"success": yes}),
        "Subscriptions": {"type": "array", "items": reference("Subscribe")},
        # `fields` may leave any member out, so nothing of the record is required here.
        "PredictionAnswer": _object({"success": yes, "data": {"type": "object"}}),
        "WholePrediction": _object({"success": yes, "data": record}),
        "PredictionList": _object(
            {
                "success": yes,
                "data": {"type": "array", "items": record},
                "cursor": {"type": ["string", "null"]},
            },
            {"searched": number, "unsearchable": number, "counts": counts},
        ),
        "UsageSums": _object(
            {
                "success": yes,
                "data": {
                    "type": "array",
                    "items": _object(
                        dict.fromkeys(
                            ("predictions", "inputTokens", "outputTokens", "images"), number
                        )
                        | {
                            "seconds": {"type": "number"},
                            "costs": {"type": "object", "additionalProperties": text},
                        },
                        {
                            key: {"type": ["string", "null"]}
                            for key in ("owner", "model", "provider", "day")
                        },
                    ),
                },
                "groupBy": {"type": "array", "items": text},
                "keptSeconds": {"type": ["integer", "null"]},
            }
        ),
        "Figures": _object({"success": yes, "data": {"type": "object"}}),
        "DeadLetterList": _object(
            {
                "success": yes,
                "data": {"type": "array", "items": {"type": "object"}},
                "open": number,
                "openReasons": by_status,
            },
            {"count": number, "reasons": by_status},
        ),
        "DeliveryList": _object(
            {
                "success": yes,
                "data": {"type": "array", "items": delivery},
                "waiting": by_status,
                "switchedOff": {
                    "type": "array",
                    "items": _object({"host": text, "at": number, "reason": text}),
                },
            }
        ),
        "RawReports": _object(
            {
                "success": yes,
                "data": {
                    "type": "array",
                    "items": _object(
                        {
                            "position": text,
                            "at": number,
                            "provider": {"type": ["string", "null"]},
                            "delivery": {"type": ["string", "null"]},
                            "bytes": number,
                            "body": text,
                        }
                    ),
                },
            }
        ),
        "Health": _object({"status": text}),
        "Change": message("change", prediction=record),
        "Append": _object(
            {"type": {"const": "append"}, **gone, "offset": number, "text": text},
            {"version": number, "updatedAt": number},
        ),
        "Snapshot": message("snapshot", prediction=record),
        "Deleted": _object(
            {"type": {"const": "deleted"}, **gone, "version": number},
            {"reason": {"const": "expired"}},
        ),
        "Unknown": message("unknown", **gone),
        "Synced": message("synced", more={"type": "boolean"}),
        "Welcome": _object(
            {"type": {"const": "welcome"}, "session": text, "heartbeat": number},
            {"ref": {"type": ["integer", "string"]}, "anonymous": yes, "publicUrl": text},
        ),
        "Subscribed": message("subscribed"),
        "Unsubscribed": message("unsubscribed"),
        "Pong": message("pong"),
        "Error": message("error", code=text, message=text),
        "Bye": message("bye", retryAfter=number),
    }
