"""What a process opens, as the settings say."""

from pathlib import Path

import pytest
import structlog
from msgspec.structs import replace

from tidings.config.settings import Settings, SettingsError
from tidings.runtime.resources import check_stores, log_of, open_resources, unshared_store
from tidings.storage.errors import StorageError
from tidings.streams.log.protocol import CHANGES, NewRecord


async def test_the_log_takes_every_record() -> None:
    """Webhooks may be limited to less than a record may hold: what is announced still fits into the log."""
    log = await log_of(Settings(log="memory://", max_body=1024, record_max=200_000))
    await log.append(CHANGES, [NewRecord(b"p1", b"x" * 200_000)])
    await log.close()


async def test_a_processor_of_its_own_does_not_begin_in_the_middle(tmp_path: Path) -> None:
    """An empty store behind a log that was processed is refused with what to do; one process that does all warns."""
    whole = Settings(log=f"sqlite:///{tmp_path}/log.db", store=f"sqlite:///{tmp_path}/store.db")
    log = await log_of(whole)
    await log.append(CHANGES, [NewRecord(b"p1", b"{}", [("v", b"1")])])
    await log.close()
    with pytest.raises(StorageError, match="fill it with tidings replay"):
        async with open_resources(replace(whole, role=("processor", "archiver"))):
            pass
    with structlog.testing.capture_logs() as lines:
        async with open_resources(whole):
            pass
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["store.empty"]


def test_a_store_in_memory_is_for_one_process() -> None:
    """Where a gateway and the processor are two processes, a store in memory is doubted by its setting's name."""
    whole = Settings(store="memory://")
    for settings in (
        whole,
        replace(whole, role=("gateway", "processor")),
        Settings(role=("gateway",)),
    ):
        assert unshared_store(settings) is None
    for settings in (
        replace(whole, role=("gateway",)),
        replace(whole, role=("processor", "archiver")),
        replace(whole, workers=2),
    ):
        doubt = unshared_store(settings) or ""
        assert doubt.startswith("TIDINGS_STORE: memory:// is seen by one process alone")
        assert "postgresql://" in doubt
    arm = Settings(role=("gateway",), store_split="memory://=10")
    assert (unshared_store(arm) or "").startswith("TIDINGS_STORE_SPLIT: memory://")


def test_kv_beside_a_store_that_decides() -> None:
    """Cloudflare KV may be either arm of a split, and not both of them."""
    kv = "cloudflare-kv://account/namespace"
    check_stores(Settings(store_split=f"{kv}=10"))
    check_stores(Settings(store=kv, store_split="sqlite:///b.db=10"))
    with pytest.raises(SettingsError, match=r"TIDINGS_STORE_SPLIT: .* the other arm has to decide"):
        check_stores(Settings(store=kv, store_split="cloudflare-kv+worker://host=10"))
