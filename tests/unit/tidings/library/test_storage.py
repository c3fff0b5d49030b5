"""`create_storage()`: the store of the settings, with all that they put around it, for the library."""

import inspect
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import tidings
from tests.support.storage.samples import creation
from tidings.storage.errors import StorageError, StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.store import Conflict, Outcome, Stored, Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.retrying import RetryingStore

NOW = Backoff((0,), jitter=0)


class Failing(MemoryStore):
    """Fails so many calls; writes are taken all the same, and their answers lost."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.calls = 0

    def _fail(self) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("away")

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, if it does not fail."""
        self._fail()
        return await super().get(prediction_id)

    async def write(self, writes: list[Write]) -> list[Outcome]:  # type: ignore[override]
        """Write, and lose the answer if it fails."""
        outcomes = await super().write(writes)
        self._fail()
        return outcomes


async def test_without_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments the environment says all: store, copy for reads, cache, and lines for successes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_STORE", f"sqlite:///{tmp_path}/new/a.db")
    monkeypatch.setenv("TIDINGS_STORE_FALLBACK", f"sqlite:///{tmp_path}/b.db")
    monkeypatch.setenv("TIDINGS_LOG_OPERATIONS", "1")
    assert not [
        one
        for one in inspect.signature(tidings.create_storage).parameters.values()
        if one.default is inspect.Parameter.empty
    ]
    with capture_logs() as logs:
        store = await tidings.create_storage()
        manager = tidings.PredictionStatusManager(store)
        await manager.initialize("p", prompt="a cat")
        await manager.mark_as_succeeded("p", "https://example.com/cat.png")
        found = await manager.get("p")
        await store.close()
    assert found is not None
    assert found.status == "succeeded"
    assert isinstance(store, CachedStore)
    assert isinstance(store.store, FallbackStore)
    events = [log["event"] for log in logs if log["log_level"] == "info"]
    assert "storage.sqlite.write.success" in events
    copy = await tidings.open_store(f"sqlite:///{tmp_path}/b.db")
    copied = await copy.get("p")
    await copy.close()
    assert copied is not None
    assert copied.status == "succeeded"


async def test_successes_are_quiet_unless_asked_for() -> None:
    """Without the setting no line is logged for what went well; the metrics count it all the same."""
    registry = CollectorRegistry()
    settings = tidings.Settings(store="memory://", cache_ttl=0)
    with capture_logs() as logs:
        store = await tidings.create_storage(settings, registry=registry)
        await store.write([creation("p")])
    assert not [log for log in logs if log["event"].endswith(".success")]
    labels = {"store": "memory", "operation": "write", "arm": ""}
    assert registry.get_sample_value("tidings_storage_success_total", labels) == 1


async def test_the_fallback_answers_while_the_store_is_away() -> None:
    """What was written through the library can be read from the copy while the store is away."""
    first = Failing(0)
    store = FallbackStore(first, MemoryStore(), written_here=True)
    await store.write([creation("p")])
    first.failures = 1
    stored = await store.get("p")
    assert stored is not None
    assert stored.degraded


async def test_a_call_is_made_again_within_a_limit() -> None:
    """A failure that may pass is tried again, as often as asked and no oftener; others are raised at once."""
    inner = Failing(2)
    assert await RetryingStore(inner, retries=2, waits=NOW).get("p") is None
    assert inner.calls == 3
    inner = Failing(3)
    with pytest.raises(StoreUnavailable):
        await RetryingStore(inner, retries=2, waits=NOW).get("p")
    assert inner.calls == 3

    class Wrong(MemoryStore):
        calls = 0

        async def get(self, prediction_id: str) -> Stored | None:
            Wrong.calls += 1
            raise StorageError(f"{prediction_id} is wrong")

    with pytest.raises(StorageError, match="wrong"):
        await RetryingStore(Wrong(), retries=2, waits=NOW).get("p")
    assert Wrong.calls == 1


async def test_a_write_whose_answer_was_lost_is_no_conflict() -> None:
    """A write that stands already when it is tried again has succeeded; that of another writer is a conflict."""
    inner = Failing(1)
    write = creation("p")
    assert await RetryingStore(inner, waits=NOW).write([write]) == [None]
    inner.failures = 1
    other = creation("p", prompt="another")
    assert await RetryingStore(inner, waits=NOW).write([other]) == [Conflict(1)]


async def test_stores_that_do_not_go_together(tmp_path: Path) -> None:
    """A copy or an arm that is the store itself is refused by the name of its setting."""
    url = f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(tidings.SettingsError, match="TIDINGS_STORE_FALLBACK"):
        await tidings.create_storage(tidings.Settings(store=url, store_fallback=url))
    with pytest.raises(tidings.SettingsError, match="TIDINGS_STORE_SPLIT"):
        await tidings.create_storage(tidings.Settings(store=url, store_split=f"{url}=10"))
    with pytest.raises(ValueError, match="retries"):
        await tidings.create_storage(tidings.Settings(store=url), retries=-1)
