"""A stand-in for an OpenTelemetry collector: takes OTLP over HTTP on loopback and keeps the spans as they came."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.conditions import eventually


class CollectedSpan(Struct, frozen=True):
    """One span."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    start: int
    end: int
    failed: str | None
    attributes: dict[str, Any]
    service: str
    instance: str


class TraceCollector:
    """What came.

    Args:
        refusing: Answer 503 to everything.
    """

    def __init__(self, *, refusing: bool = False) -> None:
        self.refusing = refusing
        self.url = ""
        self.spans: list[CollectedSpan] = []
        self.requests = 0

    def trace(self, trace: str) -> list[CollectedSpan]:
        """The spans of a trace, by their beginning."""
        return sorted(
            (span for span in self.spans if span.trace == trace), key=lambda span: span.start
        )

    async def named(
        self, *names: str, trace: str | None = None, within: float = 30
    ) -> dict[str, CollectedSpan]:
        """Wait for one span of each of these names in one trace, the given or the only one; by name."""

        def there() -> dict[str, CollectedSpan]:
            found = {span.name: span for span in self.spans if trace in (None, span.trace)}
            return found if set(names) <= set(found) else {}

        return await eventually(there, within)

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`."""
        self.requests += 1
        if self.refusing:
            return web.Response(status=503)
        assert request.content_type == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in message.resource_spans:
            resource = _plain(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_span(span, resource) for span in of_scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _span(span: ProtoSpan, resource: dict[str, Any]) -> CollectedSpan:
    return CollectedSpan(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name,
        kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
        attributes=_plain(span.attributes),
        service=resource["service.name"],
        instance=resource["service.instance.id"],
    )


@asynccontextmanager
async def collecting(*, refusing: bool = False) -> AsyncIterator[TraceCollector]:
    """A collector at work on a free port."""
    collector = TraceCollector(refusing=refusing)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    collector.url = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        await runner.cleanup()
