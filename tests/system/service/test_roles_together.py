"""What the processes of a service with roles know of each other: a copy in memory, a store in memory."""

import json
from pathlib import Path

import pytest

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.storage.samples import prediction
from tests.support.tidings_process import serving
from tidings.config.settings import Settings
from tidings.runtime import service, upkeep
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.prediction import Status, encode
from tidings.streams.changes.codec import announcement
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, Position

KEY = {"TIDINGS_WEBHOOK_KEY": "k" * 32}


async def test_a_gateway_removes_from_its_own_copy_what_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway beside a processor elsewhere fills its copy in memory, and removes there what is past its time."""
    monkeypatch.setattr(upkeep, "SWEEP_EVERY", 0.01)
    log = await open_log(f"sqlite:///{tmp_path}/log.db")
    for name, expires_at in (("due", 1), ("later", SYSTEM_CLOCK.ms() + 3_600_000)):
        record = prediction(name, status=Status.SUCCEEDED)
        await log.append(
            CHANGES,
            [announcement(record, encode(record), position=Position(0, 0), expires_at=expires_at)],
        )
    await log.close()
    settings = Settings(
        role=("gateway",),
        port=0,
        log=f"sqlite:///{tmp_path}/log.db",
        store=f"sqlite:///{tmp_path}/store.db",
        store_fallback="memory://",
        assets=f"file:///{tmp_path}/assets",
        webhook_key="k" * 32,
    )
    async with service.running(settings) as running:
        fallback = running.resources.fallback
        assert fallback is not None
        copy = fallback.fallback

        async def swept() -> bool:  # both are written at once: where one is, the other was
            return set(await copy.load(["due", "later"])) == {"later"}

        await eventually(swept)


async def test_a_store_in_memory_with_roles_is_said_once(tmp_path: Path) -> None:
    """A gateway whose store nobody else fills starts all the same; its start and the doctor say what is wrong."""
    settings = {"TIDINGS_STORE": "memory://", **KEY}
    async with serving(tmp_path, settings, arguments=("serve", "--role", "gateway")) as running:
        lines = [json.loads(line) for line in running.output.splitlines()]
    [line] = [line for line in lines if line["event"] == "store.unshared"]
    assert line["level"] == "warning"
    assert line["warning"].startswith("TIDINGS_STORE: memory://")
    for roles, state in (("gateway", "warning"), ("gateway,processor", "ok")):
        ended = await tidings(
            tmp_path, "doctor", "--json", settings={**settings, "TIDINGS_ROLE": roles}
        )
        [store] = [part for part in ended.json["parts"] if part["part"] == "store"]
        assert store["state"] == state
    assert "seen by one process alone" not in store["says"]
