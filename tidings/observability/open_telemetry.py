"""Spans by OpenTelemetry's SDK, sent over OTLP/HTTP.

The only file that knows it, imported when traces are turned on.

What the SDK and its exporter read from the environment by themselves (`OTEL_EXPORTER_OTLP_HEADERS`,
`_CERTIFICATE`, `_TIMEOUT`, `OTEL_BSP_*`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`) goes for
us as well. Spans wait for a thread of the SDK's in a bounded queue: a collector that is away costs
those spans, and nobody waits for it.
"""

import asyncio
import logging
import random
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from importlib.metadata import version

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.trace.propagation import set_span_in_context

from tidings.config.validators import masked_url
from tidings.storage.loggers import get_logger
from tidings.storage.proxies import calls_this_machine
from tidings.streams.support.tracing import Attributes, Kind, sampled

PATH = "/v1/traces"
"""Where a collector takes traces, beneath its address (OTLP specification, OTLP/HTTP request)."""
LAST_SPANS = 2.0
"""Seconds for the spans that wait at the end."""

_KINDS: dict[Kind, SpanKind] = {
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
logger = get_logger(__name__)


class OneSpan:
    """A span of the SDK's."""

    __slots__ = ("_span",)

    def __init__(self, span: SdkSpan) -> None:
        self._span = span

    @property
    def traceparent(self) -> bytes:
        """See `Span.traceparent`."""
        context = self._span.get_span_context()
        return b"00-%032x-%016x-01" % (context.trace_id, context.span_id)

    def end(self, at: int | None = None, *, failure: str | None = None) -> None:
        """See `Span.end`."""
        if failure is not None:
            self._span.set_status(Status(StatusCode.ERROR, failure[:200]))
        self._span.end(at)


class Traces:
    """Where the spans of a process go.

    Args:
        url: Of the collector.
        sample: Part of the events that are traced, 0 to 1, if their sender did not decide it.
    """

    def __init__(self, url: str, sample: float) -> None:
        self._sample = sample
        endpoint = url.rstrip("/").removesuffix(PATH) + PATH
        own = Resource({"service.name": "tidings", "service.version": version("tidings")})
        instance = Resource({"service.instance.id": uuid.uuid4().hex})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # what is not sampled is never begun
            resource=own.merge(instance).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._exporter = _Exporter(endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("tidings", version("tidings"))

    @property
    def sent(self) -> int:
        """Spans that the collector has taken."""
        return self._exporter.sent

    @property
    def lost(self) -> int:
        """Spans that it has not."""
        return self._exporter.lost

    def chosen(self, incoming: str | None) -> bool:
        """See `Tracing.chosen`."""
        if incoming is not None:
            return sampled(incoming.encode())
        return random.random() < self._sample  # noqa: S311 - a sample, not a secret

    def begin(
        self,
        name: str,
        kind: Kind,
        *,
        parent: bytes | None = None,
        at: int | None = None,
        attributes: Attributes | None = None,
    ) -> OneSpan:
        """See `Tracing.begin`."""
        context = (
            None if parent is None else set_span_in_context(NonRecordingSpan(_context(parent)))
        )
        return OneSpan(
            self._tracer.start_span(
                name, context=context, kind=_KINDS[kind], attributes=attributes, start_time=at
            )
        )

    async def check(self) -> str | None:
        """Send nothing, for the collector's word; gives what is wrong, None if it took it."""
        return await asyncio.to_thread(self._exporter.check)

    async def close(self) -> None:
        """Send what waits, for a moment, and end."""
        # A thread of its own: it may hang on a collector that is away, and nobody waits for it
        # then.
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="traces-end", daemon=True).start()
        try:
            async with asyncio.timeout(LAST_SPANS):
                await done.wait()
        except TimeoutError:
            logger.warning(
                "traces.lost",
                reason=f"the collector has not taken the last spans within {LAST_SPANS:.0f} s",
            )


def _context(traceparent: bytes) -> SpanContext:
    _, trace, span, _ = traceparent.split(b"-")
    return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=_SAMPLED)


class _Remembering(logging.Handler):
    """Keeps what the library complains of at every attempt.

    Its last line alone does not say why it has given up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=2)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage()[:300])

    def told(self) -> str:
        """The last lines, which are forgotten then."""
        lines = " ".join(self._lines)
        self._lines.clear()
        return lines


class _Exporter(SpanExporter):
    """Sends spans; says once that it cannot, and once that it can again."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._complaints = _Remembering()
        for name in ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal"):
            library = logging.getLogger(name)
            library.propagate = False
            library.handlers[:] = [self._complaints]
        session = requests.Session()
        session.trust_env = not calls_this_machine(endpoint)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, session=session)
        self._failing = False
        self.sent = 0
        self.lost = 0

    def check(self) -> str | None:
        """What is wrong; None: the collector takes spans."""
        taken = self._exporter.export(()) is SpanExportResult.SUCCESS
        return None if taken else self._complaints.told()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            logger.warning(
                "traces.not_taken",
                collector=masked_url(self._endpoint),
                error=self._complaints.told(),
            )
        elif self._failing and not failed:
            logger.info("traces.taken_again", collector=masked_url(self._endpoint))
        self._failing = failed
        if failed:
            self.lost += len(spans)
        else:
            self.sent += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
