"""Every call of a store is timed and counted, by store, operation and arm.

Selection and composition of stores.
"""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.support.storage.samples import creation, fresh
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.legacy_environment import selected_provider, selected_url
from tidings.storage.memory import MemoryStore
from tidings.storage.store import Ownership, Query, Stored
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.compose import open_composed, reset_shared, shared_store
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.instrumented import ObservedStore
from tidings.storage.wrappers.split import SplitStore


def figure(
    registry: CollectorRegistry, name: str, operation: str, arm: str = "", store: str = "memory"
) -> float:
    labels = {"store": store, "operation": operation, "arm": arm}
    return registry.get_sample_value(f"tidings_storage_{name}", labels) or 0


async def test_each_call_is_counted() -> None:
    """Every operation adds to its own duration and success."""
    registry = CollectorRegistry()
    store = ObservedStore(MemoryStore(), registry=registry)
    await store.claim(Ownership(log="l"))
    await store.positions()
    await store.write([creation("p")])
    await store.get("p")
    await store.load(["p"])
    await store.list(Query())
    await store.sweep(0, 1)
    for operation in ("claim", "positions", "get", "load", "write", "list", "sweep"):
        assert figure(registry, "success_total", operation) == 1, operation
        assert figure(registry, "duration_seconds_count", operation) == 1, operation
        assert figure(registry, "error_total", operation) == 0, operation


async def test_failures_are_counted_and_logged() -> None:
    """A failing call is counted as an error, timed, logged under its name, and raised as it was."""

    class Failing(MemoryStore):
        async def get(self, prediction_id: str) -> Stored | None:
            raise StoreUnavailable("away")

    registry = CollectorRegistry()
    store = ObservedStore(Failing(), registry=registry, arm="b")
    with capture_logs() as logs, pytest.raises(StoreUnavailable):
        await store.get("p")
    assert figure(registry, "error_total", "get", "b") == 1
    assert figure(registry, "success_total", "get", "b") == 0
    assert figure(registry, "duration_seconds_count", "get", "b") == 1
    assert [(log["event"], log["log_level"], log["retryable"]) for log in logs] == [
        ("storage.memory.get.error", "warning", True)
    ]


async def test_arms_are_told_apart(tmp_path: Path) -> None:
    """A split store from the settings reports each arm by itself, and a fallback too."""
    registry = CollectorRegistry()
    store = await open_composed(
        "memory://",
        split=(f"sqlite:///{tmp_path}/b.db", 50),
        fallback="memory://",
        registry=registry,
    )
    assert isinstance(store, FallbackStore)
    assert isinstance(store.store, SplitStore)
    await store.write([creation(fresh()) for _ in range(50)])
    assert figure(registry, "success_total", "write", "a") == 1
    assert figure(registry, "success_total", "write", "b", "sqlite") == 1
    assert figure(registry, "success_total", "write", "fallback") == 0
    await store.close()


async def test_a_part_that_does_not_open(tmp_path: Path) -> None:
    """Where one part cannot be opened, those that were are closed."""
    with pytest.raises(StoreMisconfigured):
        await open_composed(
            f"sqlite:///{tmp_path}/a.db", fallback="mysql://host", registry=CollectorRegistry()
        )


async def test_shared(tmp_path: Path) -> None:
    """A process has one store per URL until it is reset; a failed opening is tried again."""
    url = f"sqlite:///{tmp_path}/s.db"
    store = await shared_store(url)
    assert await shared_store(url) is store
    await reset_shared()
    with pytest.raises(StorageError, match="closed"):
        await store.get("p")
    assert await shared_store(url) is not store
    for _ in range(2):
        with pytest.raises(StoreMisconfigured):
            await shared_store("mysql://host")
    await reset_shared()


@pytest.mark.parametrize(
    ("environment", "provider"),
    [
        ({}, None),
        ({"TIDINGS_ENV": ""}, None),
        ({"PREDICTION_STORAGE_PROVIDER": "do", "TIDINGS_ENV": "development"}, "do"),
        ({"PREDICTION_STORAGE_PROVIDER": "KV", "REQUIRE_STRONG_CONSISTENCY": "true"}, "kv"),
        ({"TIDINGS_ENV": "development", "REQUIRE_STRONG_CONSISTENCY": "true"}, "kv"),
        ({"TIDINGS_ENV": "production", "REQUIRE_STRONG_CONSISTENCY": "true"}, "do"),
        ({"REQUIRE_STRONG_CONSISTENCY": "true", "OPTIMIZE_FOR_THROUGHPUT": "true"}, "do"),
        ({"REQUIRE_STRONG_CONSISTENCY": "false"}, "kv"),
        ({"OPTIMIZE_FOR_THROUGHPUT": "true"}, "kv"),
        ({"TIDINGS_ENV": "production"}, "kv"),
    ],
)
def test_original_selection(environment: dict[str, str], provider: str | None) -> None:
    """The original names decide in their order.

    The provider, development, strong consistency, throughput.
    """
    assert selected_provider(environment) == provider


def test_selected_urls() -> None:
    """The selected store's URL comes from its own names; what is missing or wrong is named."""
    assert selected_url({}) is None
    kv = {
        "TIDINGS_ENV": "development",
        "TIDINGS_CLOUDFLARE_ACCOUNT": "a",
        "TIDINGS_CLOUDFLARE_NAMESPACE": "n",
    }
    assert selected_url(kv) == "cloudflare-kv://a/n"
    do = {"PREDICTION_STORAGE_PROVIDER": "do"}
    assert (
        selected_url(do | {"TIDINGS_WORKER_URL": "https://w.example/"})
        == "durable-objects://w.example"
    )
    assert (
        selected_url(do | {"TIDINGS_WORKER_URL": "http://127.0.0.1:1"})
        == "durable-objects+http://127.0.0.1:1"
    )
    by_worker = {"TIDINGS_ENV": "x", "TIDINGS_WORKER_URL": "https://w.example"}
    assert selected_url(by_worker) == "cloudflare-kv+worker://w.example"
    for environment, message in (
        (do, "TIDINGS_WORKER_URL: is missing.*PREDICTION_STORAGE_PROVIDER"),
        (do | {"TIDINGS_WORKER_URL": "w.example"}, "TIDINGS_WORKER_URL"),
        ({"TIDINGS_ENV": "production"}, "TIDINGS_CLOUDFLARE_ACCOUNT: is missing.*TIDINGS_ENV"),
        ({"PREDICTION_STORAGE_PROVIDER": "s3"}, "'s3'.*kv, do"),
        (
            {"REQUIRE_STRONG_CONSISTENCY": "maybe"},
            "REQUIRE_STRONG_CONSISTENCY: 'maybe' is neither on nor off",
        ),
        (
            {"PREDICTION_STORAGE_PROVIDER": "kv", "OPTIMIZE_FOR_THROUGHPUT": "2"},
            "OPTIMIZE_FOR_THROUGHPUT: '2'",
        ),
    ):
        with pytest.raises(StoreMisconfigured, match=message):
            selected_url(environment)


async def test_what_only_some_stores_do_reaches_them() -> None:
    """Through every wrapper an operator reads the store's own facts, and a rebuild tells it that it is whole."""

    class Telling(MemoryStore):
        filled = 0

        async def facts(self) -> dict[str, str]:
            return {"server": "told"}

        async def mark_filled(self) -> None:
            self.filled += 1

    store, other = Telling(), Telling()
    wrapped = CachedStore(
        FallbackStore(ObservedStore(store, registry=CollectorRegistry()), MemoryStore())
    )
    assert await wrapped.facts() == {"server": "told"}
    await wrapped.mark_filled()
    await SplitStore(ObservedStore(store, registry=CollectorRegistry()), other, 50).mark_filled()
    assert (store.filled, other.filled) == (2, 1)
    plain = MemoryStore()
    assert await plain.facts() == {}
    await plain.mark_filled()
    plain.clear()
    assert await plain.load_certain(["p"]) == await plain.load_fresh(["p"]) == {}
