"""The one list of the HTTP routes: what serves each, and how the specification describes it.

The application adds the routes from here, and the OpenAPI document describes them from here: a new
route is one entry in `ROUTES` and its handler.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from msgspec import Struct

from tidings.gateway.api.dead_letters import DeadLetters
from tidings.gateway.api.health import Health
from tidings.gateway.api.mutations import Mutations
from tidings.gateway.api.outbound_webhooks import Deliveries
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.api.webhooks import Webhooks
from tidings.gateway.http.problems import Handler
from tidings.gateway.text.reads import TextReads
from tidings.gateway.text.writes import TextWrites

Served = TypeVar("Served")


class Endpoints(Struct, frozen=True, kw_only=True):
    """What serves the routes of a gateway, each made with the few collaborators that it uses."""

    read: Handler
    raw_reports: Handler
    list: Handler
    usage: Handler
    create: Handler
    retry: Handler
    answer: Handler
    delete: Handler
    mutations: Mutations
    text_reads: TextReads
    text_writes: TextWrites
    event_streams: EventStreams
    blob: Handler
    asset: Handler
    webhooks: Webhooks
    dead_letters: DeadLetters
    deliveries: Deliveries
    health: Health
    page: Handler
    docs: Handler
    """The page that shows `/openapi.json`."""
    openapi: Handler
    asyncapi: Handler
    websocket: Handler
    """Serves `/api/ws` on connections that the HTTP server has already."""


@dataclass(frozen=True, kw_only=True)
class Route(Generic[Served]):
    """One method of one path."""

    method: str
    path: str
    handler: Callable[[Served], Handler]
    summary: str = ""
    """What the specification says of it; empty: the specification leaves it out."""
    answers: dict[int, str]
    """Per status the name of the body's schema; empty: none. Problems come beside these."""
    problems: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    """Names of `openapi.PARAMETERS`, beside those in the path."""
    body: str = ""
    """The name of the request's schema; `*`: whatever a provider sends."""
    open: bool = False
    """No token is needed."""
    media: str = "application/json"


_ID = "/api/predictions/{id}"

HEALTH_ROUTES: tuple[Route[Health], ...] = (
    Route(
        method="GET", path="/healthz", handler=lambda health: health.healthz,
        summary="Whether it is alive", answers={200: "Health"}, open=True,
    ),
    Route(
        method="GET", path="/readyz", handler=lambda health: health.readyz,
        summary="Whether it is ready to serve", answers={200: "Health"}, problems=(503,), open=True,
    ),
    Route(
        method="GET", path="/metrics", handler=lambda health: health.metrics,
        summary="Prometheus' text, for loopback and admins", answers={200: ""}, problems=(403,),
        media="text/plain",
    ),
)  # fmt: skip
"""The routes on every role's port."""


def _text_routes(path: str) -> tuple[Route[Endpoints], ...]:
    """The routes of a text: the Durable Streams protocol 1.0."""
    return (
        Route(
            method="GET", path=path, handler=lambda api: api.text_reads.read,
            summary="Read a prediction's text, what there is of it or as it grows",
            parameters=("offset", "live", "cursor", "If-None-Match", "access_token"),
            answers={200: "", 204: "", 304: ""}, problems=(400, 404, 410), media="text/plain",
        ),
        Route(
            method="PUT", path=path, handler=lambda api: api.text_writes.begin,
            summary="Begin a text", body="text", answers={200: "", 201: ""},
            problems=(400, 403, 409, 413), media="text/plain",
        ),
        Route(
            method="POST", path=path, handler=lambda api: api.text_writes.append,
            summary="Append a piece to a text, close it, or both", body="text",
            parameters=("offset",), answers={200: "", 204: ""},
            problems=(400, 403, 404, 409, 413), media="text/plain",
        ),
        Route(
            method="DELETE", path=path, handler=lambda api: api.text_writes.delete,
            summary="Delete a prediction with its text", answers={204: "", 202: "Accepted"},
            problems=(403, 404),
        ),
    )  # fmt: skip


# The routes with the most traffic come first among those of equal depth.
ROUTES: tuple[Route[Endpoints], ...] = (
    Route(
        method="GET", path=_ID, handler=lambda api: api.read,
        summary="Read a prediction", parameters=("fields", "latest", "If-None-Match", "Prefer"),
        answers={200: "PredictionAnswer", 304: ""}, problems=(400, 404),
    ),
    Route(
        method="PATCH", path=_ID, handler=lambda api: api.mutations.patch,
        summary="Report about a prediction", body="Changes",
        answers={200: "PredictionAnswer", 202: "PredictionAnswer"},
        problems=(400, 403, 404, 409, 413, 415, 422),
    ),
    Route(
        method="DELETE", path=_ID, handler=lambda api: api.delete,
        summary="Delete a prediction", answers={204: "", 202: "Accepted"}, problems=(403, 404),
    ),
    Route(
        method="POST", path=_ID + "/cancel", handler=lambda api: api.mutations.cancel,
        summary="Ask for a prediction to be canceled",
        answers={202: "PredictionAnswer"}, problems=(403, 404, 409),
    ),
    Route(
        method="POST", path=_ID + "/retry", handler=lambda api: api.retry,
        summary="Try again what failed or was canceled", body="Retry",
        answers={201: "WholePrediction", 202: "PredictionAnswer"},
        problems=(400, 403, 404, 409, 413, 415, 422),
    ),
    Route(
        method="POST", path=_ID + "/answer", handler=lambda api: api.answer,
        summary="Answer the question that a prediction waits with", body="Answer",
        answers={200: "WholePrediction", 202: "PredictionAnswer"},
        problems=(400, 403, 404, 409, 413, 415, 422),
    ),
    Route(
        method="GET", path=_ID + "/events", handler=lambda api: api.event_streams.one,
        summary="Follow a prediction until it ends",
        parameters=("Last-Event-ID", "lastEventId", "text=append", "access_token"),
        answers={200: "", 204: ""}, problems=(400, 404), media="text/event-stream",
    ),
    *_text_routes(_ID + "/text"),
    *_text_routes("/v1/stream/{id}"),
    Route(
        method="GET", path=_ID + "/report", handler=lambda api: api.raw_reports,
        summary="Read back the webhooks and events that a record was made from",
        answers={200: "RawReports"}, problems=(403, 404),
    ),
    Route(
        method="GET", path=_ID + "/blobs/{hash}", handler=lambda api: api.blob,
        summary="Read a field that is too large for its record", parameters=("If-None-Match",),
        answers={200: "", 304: ""}, problems=(404,),
    ),
    Route(
        method="GET", path="/assets/{path}", handler=lambda api: api.asset,
        summary="A file of a finished prediction, by its secret address",
        answers={200: "", 206: "", 302: "", 304: ""}, problems=(404,), open=True, media="*/*",
    ),
    Route(
        method="GET", path="/api/events", handler=lambda api: api.event_streams.many,
        summary="Follow several predictions, or all of an owner, a tag or a model",
        parameters=("predictions", "owner", "tag", "model", "all", "limit", "text=append", "access_token"),
        answers={200: ""}, problems=(400, 403), media="text/event-stream",
    ),
    Route(
        method="POST", path="/api/events", handler=lambda api: api.event_streams.posted,
        summary="Follow whatever a list of the WebSocket's subscriptions names", body="Subscriptions",
        answers={200: ""}, problems=(400, 413, 415), media="text/event-stream",
    ),
    Route(
        method="GET", path="/api/predictions", handler=lambda api: api.list,
        summary="List predictions, newest first",
        parameters=("kind", "group", "status", "owner", "model", "tag", "provider=", "error", "text", "limit", "cursor", "count", "format",
                    "createdAfter", "createdBefore"),
        answers={200: "PredictionList"}, problems=(400,),
    ),
    Route(
        method="GET", path="/api/usage", handler=lambda api: api.usage,
        summary="Sum what predictions have used, over the records that are kept",
        parameters=("groupBy", "from", "to", "owner", "model", "provider="),
        answers={200: "UsageSums"}, problems=(400, 403),
    ),
    Route(
        method="POST", path="/api/predictions", handler=lambda api: api.create,
        summary="Create and submit a prediction, or a group of them", body="NewOrder",
        parameters=("Idempotency-Key",), answers={201: "WholePrediction", 202: "PredictionAnswer"},
        problems=(400, 403, 409, 413, 415, 422),
    ),
    Route(
        method="POST", path="/api/webhooks/{provider}", handler=lambda api: api.webhooks.receive,
        summary="A provider's webhook", body="*", open=True,
        answers={200: "Accepted"}, problems=(401, 404, 413, 503),
    ),
    Route(
        method="POST", path="/api/webhooks/{provider}/{id}", handler=lambda api: api.webhooks.receive,
        summary="A provider's webhook about one prediction", body="*", open=True,
        parameters=("token",), answers={200: "Accepted"}, problems=(401, 404, 413, 503),
    ),
    Route(
        method="GET", path="/api/dead-letters", handler=lambda api: api.dead_letters.list,
        summary="See what could not be applied", parameters=("reason", "prediction", "state", "limit", "count"),
        answers={200: "DeadLetterList"}, problems=(400, 403),
    ),
    Route(
        method="POST", path="/api/dead-letters/redrive",
        handler=lambda api: api.dead_letters.redrive,
        summary="Try dead letters again", body="Redrive",
        answers={200: "Figures"}, problems=(403, 415, 422),
    ),
    Route(
        method="POST", path="/api/dead-letters/dismiss",
        handler=lambda api: api.dead_letters.dismiss,
        summary="Say that nothing is to be done about dead letters any more", body="Redrive",
        answers={200: "Figures"}, problems=(403, 415, 422),
    ),
    Route(
        method="GET", path="/api/deliveries", handler=lambda api: api.deliveries.list,
        summary="See which webhooks to other servers wait", parameters=("prediction", "limit"),
        answers={200: "DeliveryList"}, problems=(400, 403),
    ),
    Route(
        method="GET", path="/api/stats", handler=lambda api: api.health.stats,
        summary="Figures of the parts", answers={200: "Figures"}, problems=(403,),
    ),
    Route(method="GET", path="/openapi.json", handler=lambda api: api.openapi, answers={}),
    Route(method="GET", path="/asyncapi.json", handler=lambda api: api.asyncapi, answers={}),
    Route(method="GET", path="/", handler=lambda api: api.page, answers={}),
    Route(method="GET", path="/docs", handler=lambda api: api.docs, answers={}),
    Route(method="GET", path="/static/{path}", handler=lambda api: api.page, answers={}),
    Route(method="GET", path="/api/ws", handler=lambda api: api.websocket, answers={}),
)  # fmt: skip
"""The routes of a gateway, beside those of every role."""
