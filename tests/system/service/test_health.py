"""What a running service says of itself: figures, readiness, and the breaker."""

from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.reference import metric_names
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, reaches, signed, watching
from tidings.observability import health
from tidings.observability.health import HealthMonitor
from tidings.storage.memory import MemoryStore
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.log.memory import MemoryLog
from tidings.streams.processing.processor import Processor
from tidings.streams.rules.reducer import StorePolicy

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def figures(session: aiohttp.ClientSession, url: str) -> Figures:
    """Every sample at `/metrics`."""
    async with session.get(f"{url}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figure(found: Figures, name: str, **labels: str) -> float:
    """One sample; 0 where it is missing."""
    return found.get((name, frozenset(labels.items())), 0.0)


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    async with session.post(
        f"{url}/api/webhooks/replicate", data=body, headers=signed(body)
    ) as response:
        return response.status


async def test_each_stage_shows_in_the_metrics(service: TidingsProcess) -> None:
    """Webhooks, appends, processing, dead letters, store, cache and pushes are counted, under the names on the page."""
    async with aiohttp.ClientSession() as session, watching(service.ws_url, all=True) as watcher:
        for number in range(10):
            assert await post(session, service.url, webhooks.report(f"p{number}")) == 200
        assert await post(session, service.url, b"nonsense") == 200
        bad = webhooks.report("p11")
        async with session.post(
            f"{service.url}/api/webhooks/replicate", data=bad, headers={}
        ) as response:
            assert response.status == 401
        for number in range(10):
            await reaches(session, service.url, f"p{number}", "succeeded")
        await watcher.version("p9", "succeeded")

        async def settled() -> Figures | None:
            found = await figures(session, service.url)
            done = figure(found, "tidings_processor_records_total") == 11
            lags = [value for (name, _), value in found.items() if name == "tidings_lag_records"]
            return found if done and lags and not any(lags) else None

        found = await eventually(settled, 30)
    assert found is not None
    assert figure(found, "tidings_webhooks_total", provider="replicate", status="200") == 11
    assert figure(found, "tidings_webhooks_total", provider="replicate", status="401") == 1
    assert (
        figure(
            found, "tidings_webhooks_refused_total", provider="replicate", reason="bad-signature"
        )
        == 1
    )
    assert figure(found, "tidings_webhook_seconds_count") == 11
    assert figure(found, "tidings_log_appended_records_total", topic="predictions.events") == 11
    assert figure(found, "tidings_log_appended_records_total", topic="predictions.changes") == 10
    assert (
        figure(found, "tidings_log_appended_records_total", topic="predictions.dead-letters") == 1
    )
    assert figure(found, "tidings_processor_events_total", outcome="applied") == 10
    assert figure(found, "tidings_dead_letters_total", reason="not-json") == 1
    assert figure(found, "tidings_event_to_change_seconds_count") == 10
    assert 0 < figure(found, "tidings_event_to_change_seconds_sum") < 60
    assert figure(found, "tidings_changes_total") == 10
    assert 1 <= figure(found, "tidings_change_to_push_seconds_count") <= 10
    batches = figure(found, "tidings_processor_batches_total")
    assert figure(found, "tidings_processor_stage_seconds_count", stage="write") == batches
    assert figure(found, "tidings_event_streams") == 0
    assert figure(found, "tidings_deliveries_total") == 10
    assert figure(found, "tidings_sessions") == 1
    assert figure(found, "tidings_cache_hits_total") > 0
    assert (
        figure(found, "tidings_storage_success_total", store="sqlite", operation="write", arm="")
        >= 1
    )
    assert figure(found, "tidings_stuck") == 0
    ours = {
        name for name, _ in found if name.startswith("tidings_") and not name.endswith("_created")
    }
    assert ours <= set(metric_names.series())


async def test_a_flood_of_poison_stops_the_processor(tmp_path: Path) -> None:
    """After a hundred records of nothing but poison it stops and says so; webhooks go on being taken, and nothing is lost."""
    settings = {"TIDINGS_REPLICATE_SECRET": SECRET}
    async with aiohttp.ClientSession() as session:
        async with serving(tmp_path, settings) as service:
            for _ in range(120):
                assert await post(session, service.url, b"nonsense") == 200

            async def stopped() -> str | None:
                async with session.get(f"{service.url}/readyz") as response:
                    answer: dict[str, Any] = await response.json()
                    reason: str | None = answer.get("notReady", {}).get("processor")
                    return (
                        reason
                        if response.status == 503 and reason is not None and "breaker" in reason
                        else None
                    )

            reason = await eventually(stopped, 20)
            assert reason is not None
            assert "tidings dead-letters list" in reason
            assert (
                figure(await figures(session, service.url), "tidings_processor_breaker_open") == 1
            )
            async with session.get(f"{service.url}/healthz") as response:
                assert response.status == 200  # a restart would only meet the same records
            assert await post(session, service.url, webhooks.report("after")) == 200
            assert await webhooks.get(session, service.url, "after") is None
            # A few records are tried from time to time, and this one is none: nobody has to restart anything.
            await reaches(session, service.url, "after", "succeeded", within=40)

            async def ready() -> bool:
                async with session.get(f"{service.url}/readyz") as response:
                    return response.status == 200

            await eventually(ready, 20)
        assert "processor.stopped_by_breaker" in service.output
        assert "processor.breaker_closed" in service.output
        again = ("serve", "--no-breaker")
        async with serving(tmp_path, settings, arguments=again) as service:
            for _ in range(120):
                assert await post(session, service.url, b"nonsense") == 200
            assert await post(session, service.url, webhooks.report("last")) == 200
            await reaches(session, service.url, "last", "succeeded")


async def test_a_processor_that_hangs_is_noticed_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loop that does not go round makes the process not ready, then not alive; an outage that is waited out does not."""
    log = MemoryLog()
    cache = CachedStore(MemoryStore())
    watched = HealthMonitor(log, cache, registry=CollectorRegistry())
    processor = Processor(log, cache, {}, StorePolicy(await log.identity()))
    watched.observe_processor(processor)
    assert watched.alive() is None
    assert await watched.processor_ready() is None
    processor.statistics.last_alive = monotonic() - health.SILENT - 1
    assert "has not gone round" in (await watched.processor_ready() or "")
    assert watched.alive() is None
    processor.statistics.last_alive = monotonic() - health.STUCK - 1
    assert "has not gone round" in (watched.alive() or "")
    processor.statistics.alive()
    monkeypatch.setattr(health, "STUCK", 5.0)
    progress = watched.progress["events"]
    progress.note(monotonic() - 10, {0: 5}, {0: 2})
    progress.note(monotonic() - 1, {0: 9}, {0: 2})
    assert "has stood still" in (watched.alive() or "")
    processor.outages.obstacle = "the store does not answer"
    assert watched.alive() is None
    assert await watched.processor_ready() == "the store does not answer"


async def test_an_archiver_that_hangs_is_noticed_from_outside() -> None:
    """Any loop that says when it went round is watched; it may stand still while the log is away."""
    log = MemoryLog()
    watched = HealthMonitor(log, CachedStore(MemoryStore()), registry=CollectorRegistry())
    rounds = [monotonic()]
    watched.observe_rounds("archiver", lambda: rounds[-1])
    assert watched.alive() is None
    rounds.append(monotonic() - health.STUCK - 1)
    assert "the archiver has not gone round" in (watched.alive() or "")
    watched._watch.log_obstacle = "no broker answers"
    assert watched.alive() is None
