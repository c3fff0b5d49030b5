"""Traces: a webhook's way through the service as one trace, on a real collector's protocol."""

import asyncio
import secrets
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.trace_collector import CollectedSpan, collecting
from tests.support.webhooks import SECRET, reaches, signed, watching

RECEIVE, APPEND = "POST /api/webhooks/{provider}", "send predictions.events"
PROCESS, WRITE, ANNOUNCE, PUSH = (
    "process predictions.events",
    "write store",
    "send predictions.changes",
    "push",
)
WAY = (RECEIVE, APPEND, PROCESS, WRITE, ANNOUNCE, PUSH)


def tracing(settings: dict[str, str], url: str, sample: str = "1") -> dict[str, str]:
    """The settings with traces on."""
    return {
        **settings,
        "TIDINGS_TRACES": url,
        "TIDINGS_TRACE_SAMPLE": sample,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


async def post(
    session: aiohttp.ClientSession,
    service: TidingsProcess,
    body: bytes,
    traceparent: str | None = None,
) -> int:
    headers = signed(body) | ({} if traceparent is None else {"traceparent": traceparent})
    async with session.post(
        f"{service.url}/api/webhooks/replicate", data=body, headers=headers
    ) as response:
        return response.status


def parents_are_right(spans: dict[str, CollectedSpan], first: str = "") -> None:
    """Each part continues the one before it, and none begins before its parent."""
    parents = {
        RECEIVE: first,
        APPEND: RECEIVE,
        PROCESS: APPEND,
        WRITE: PROCESS,
        ANNOUNCE: PROCESS,
        PUSH: ANNOUNCE,
    }
    for name, parent in parents.items():
        expected = spans[parent].id if parent in spans else parent
        assert spans[name].parent == expected, name
        assert spans[name].start <= spans[name].end, name
        if parent in spans:
            assert spans[parent].start <= spans[name].start, name
    assert len({span.trace for span in spans.values()}) == 1
    kinds = {name: span.kind for name, span in spans.items()}
    assert kinds[RECEIVE] == "server"
    assert kinds[APPEND] == kinds[ANNOUNCE] == "producer"
    assert kinds[PROCESS] == kinds[PUSH] == "consumer"
    assert kinds[WRITE] == "client"


async def test_a_webhooks_way_is_one_trace(tmp_path: Path, settings: dict[str, str]) -> None:
    """One trace runs from the webhook over append, processing, write and announcement to the push, each under its cause."""
    async with collecting() as collector, aiohttp.ClientSession() as session:
        async with serving(tmp_path, tracing(settings, collector.url)) as service:
            async with watching(service.ws_url, predictions=["p1"]) as watcher:
                assert await post(session, service, webhooks.report("p1")) == 200
                await watcher.version("p1", "succeeded")
            spans = await collector.named(*WAY)

            async def counted() -> bool:  # once the collector's answer is read
                async with session.get(f"{service.url}/metrics") as response:
                    sent = f'tidings_spans_total{{result="sent"}} {len(WAY)}.0'
                    return sent in await response.text()

            await eventually(counted)
        parents_are_right(spans)
        assert all(span.failed is None for span in collector.spans)
        assert len(collector.spans) == len(WAY)
        for name in (RECEIVE, PROCESS, WRITE, ANNOUNCE, PUSH):
            assert spans[name].attributes.get("tidings.prediction_id", "p1") == "p1", name
        assert spans[PUSH].attributes["tidings.watchers"] == 1
        assert {span.service for span in spans.values()} == {"tidings"}


async def test_a_senders_trace_is_continued(tmp_path: Path, settings: dict[str, str]) -> None:
    """A webhook with a sampled `traceparent` goes on in that trace whatever the sample; one that is not sampled makes no span."""
    trace, span, other = secrets.token_hex(16), secrets.token_hex(8), secrets.token_hex(16)
    async with collecting() as collector, aiohttp.ClientSession() as session:
        async with serving(tmp_path, tracing(settings, collector.url, sample="0")) as service:
            async with watching(service.ws_url, all=True) as watcher:
                assert (
                    await post(session, service, webhooks.report("p0"), f"00-{other}-{span}-00")
                    == 200
                )
                assert await post(session, service, webhooks.report("p1")) == 200
                assert await post(session, service, webhooks.report("p2"), "nonsense") == 200
                assert (
                    await post(session, service, webhooks.report("p3"), f"00-{trace}-{span}-01")
                    == 200
                )
                await watcher.version("p3", "succeeded")
            spans = await collector.named(*WAY)
        parents_are_right(spans, first=span)
        assert {one.trace for one in collector.spans} == {trace}


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("PATCH", "", "PATCH /api/predictions/{id}"),
        ("POST", "/cancel", "POST /api/predictions/{id}/cancel"),
        ("DELETE", "", "DELETE /api/predictions/{id}"),
    ],
)
async def test_a_requests_way_is_one_trace(
    tmp_path: Path, method: str, path: str, route: str
) -> None:
    """A prediction that is changed, canceled or deleted over HTTP has the same trace, from its request to the push."""
    async with collecting() as collector, aiohttp.ClientSession() as session:
        settings = tracing({"TIDINGS_REPLICATE_SECRET": SECRET}, collector.url, sample="0")
        trace, span = secrets.token_hex(16), secrets.token_hex(8)
        async with serving(tmp_path, settings) as service:
            assert await post(session, service, webhooks.start("p1")) == 200
            await reaches(session, service.url, "p1", "processing")
            async with watching(service.ws_url, predictions=["p1"]) as watcher:
                headers = {"traceparent": f"00-{trace}-{span}-01"}
                body = {"progress": 0.5} if method == "PATCH" else None
                url = f"{service.url}/api/predictions/p1{path}"
                async with session.request(method, url, json=body, headers=headers) as response:
                    assert response.status in (200, 202, 204), await response.text()
                await watcher.until("deleted" if method == "DELETE" else "change")
            spans = await collector.named(route, *WAY[1:])
        parents_are_right({RECEIVE: spans.pop(route), **spans}, first=span)
        assert {one.trace for one in collector.spans} == {trace}


async def test_what_changes_nothing_and_what_is_refused_end_their_traces(tmp_path: Path) -> None:
    """A repeat that says nothing new ends with its processing; a record that cannot be applied ends with the reason."""
    async with collecting() as collector, aiohttp.ClientSession() as session:
        settings = tracing({"TIDINGS_REPLICATE_SECRET": SECRET}, collector.url, sample="0")
        first, again, bad = (secrets.token_hex(16) for _ in range(3))
        async with serving(tmp_path, settings) as service:
            body = webhooks.report("p1")
            assert await post(session, service, body, f"00-{first}-{'1' * 16}-01") == 200
            await reaches(session, service.url, "p1", "succeeded")
            assert await post(session, service, body, f"00-{again}-{'1' * 16}-01") == 200
            assert await post(session, service, b"nonsense", f"00-{bad}-{'1' * 16}-01") == 200
            await collector.named(PROCESS, trace=again)
            spans = await collector.named(PROCESS, trace=bad)
        assert spans[PROCESS].failed == "not-json"
        assert {span.name for span in collector.trace(again)} == {RECEIVE, APPEND, PROCESS}
        assert {span.name for span in collector.trace(first)} == set(WAY) - {PUSH}


async def test_a_sample_is_a_sample(tmp_path: Path) -> None:
    """Of two hundred webhooks at 0.2 some are traced and most are not, each traced one whole."""
    async with collecting() as collector, aiohttp.ClientSession() as session:
        settings = tracing({"TIDINGS_REPLICATE_SECRET": SECRET}, collector.url, sample="0.2")
        async with serving(tmp_path, settings) as service:
            for number in range(200):
                assert await post(session, service, webhooks.report(f"p{number}")) == 200
            await reaches(session, service.url, "p199", "succeeded")
        traces = {span.trace for span in collector.spans}
        assert 5 < len(traces) < 120  # both are over six standard deviations away
        for trace in traces:
            assert {span.name for span in collector.trace(trace)} == set(WAY) - {PUSH}


@pytest.mark.parametrize("kind", ["away", "refusing"])
async def test_a_collector_that_is_away_costs_a_line(tmp_path: Path, kind: str) -> None:
    """Without a collector everything goes on, one line says so, and the service ends in time."""
    async with collecting(refusing=True) as collector, aiohttp.ClientSession() as session:
        url = "http://127.0.0.1:9" if kind == "away" else collector.url
        settings = tracing(
            {"TIDINGS_REPLICATE_SECRET": SECRET, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}, url
        )
        async with serving(tmp_path, settings) as service:
            for number in range(20):
                assert await post(session, service, webhooks.report(f"p{number}")) == 200
                await reaches(session, service.url, f"p{number}", "succeeded")
            await eventually(lambda: "traces.not_taken" in service.output, 30)
            assert await post(session, service, webhooks.report("last")) == 200
            await reaches(session, service.url, "last", "succeeded")
            assert await service.stop(within=15) == 0
        assert service.output.count("traces.not_taken") == 1
        assert "opentelemetry" not in service.output.lower()


async def test_it_is_said_when_the_collector_is_back(tmp_path: Path) -> None:
    """Spans flow again after an outage of the collector, and a line says so."""
    async with collecting(refusing=True) as collector, aiohttp.ClientSession() as session:
        settings = {"TIDINGS_REPLICATE_SECRET": SECRET, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        async with serving(tmp_path, tracing(settings, collector.url)) as service:
            assert await post(session, service, webhooks.report("p1")) == 200
            await eventually(lambda: "traces.not_taken" in service.output, 30)
            collector.refusing = False

            async def back() -> bool:
                assert (
                    await post(session, service, webhooks.start(f"q{secrets.token_hex(4)}")) == 200
                )
                return "traces.taken_again" in service.output

            await eventually(back, 30)
        assert collector.spans


async def test_the_doctor_asks_the_collector(tmp_path: Path) -> None:
    """`tidings doctor` says that the collector takes spans, or why it does not."""
    async with collecting() as collector:
        for refusing, state in ((False, "ok"), (True, "warning")):
            collector.refusing = refusing
            settings = {"TIDINGS_TRACES": collector.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
            ended = await tidings(tmp_path, "doctor", "--json", settings=settings)
            assert ended.code == 0
            (part,) = [one for one in ended.json["parts"] if one["part"] == "traces"]
            assert part["state"] == state
            assert collector.url in part["says"]


async def test_a_missing_extra_stops_the_start(tmp_path: Path) -> None:
    """Traces that are turned on without OpenTelemetry stop the start with one line that names the remedy; off, nothing of it is loaded."""
    code = "import sys; sys.modules['opentelemetry'] = None\nfrom tidings.cli.main import main; main(['serve', '--port', '0'])"
    missing = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "TIDINGS_TRACES": "http://127.0.0.1:4318"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(missing.communicate(), 30)
    assert missing.returncode == 2
    assert err.decode() == (
        "tidings: TIDINGS_TRACES: traces need OpenTelemetry, and opentelemetry is not installed; "
        "install tidings[otel], or leave the setting out\n"
    )
    loaded = "import sys, tidings.runtime.service, tidings.cli.serve; print([n for n in sys.modules if 'opentelemetry' in n])"
    off = await asyncio.create_subprocess_exec(
        sys.executable, "-c", loaded, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(off.communicate(), 30)
    assert out.decode().strip() == "[]"
