"""The operator's commands beside a service whose predictions lie in two stores."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.cloudflare_emulator import ACCOUNT, TOKEN, CloudflareEmulator
from tests.support.command import tidings
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, get, reaches, signed, watching
from tidings import open_store
from tidings.streams.log.factory import open_log

SETTINGS = {"TIDINGS_STANDARD_SECRET": SECRET, "TIDINGS_STORE_SPLIT": "sqlite:///data/b.db=50"}
IDS = {f"p{number}" for number in range(12)}


def ids_in(folder: Path, arm: str) -> set[str]:
    """Whose rows an arm has, tombstones left out."""
    with closing(sqlite3.connect(folder / "data" / arm)) as store:
        return {
            row[0] for row in store.execute("SELECT id FROM predictions WHERE status IS NOT NULL")
        }


async def report(session: aiohttp.ClientSession, service: TidingsProcess, **fields: Any) -> None:
    body = json.dumps(fields).encode()
    async with session.post(
        f"{service.url}/api/webhooks/standard", data=body, headers=signed(body)
    ) as response:
        assert response.status == 200


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TidingsProcess]:
    """A running service with finished predictions of one owner in either arm."""
    async with serving(tmp_path, SETTINGS) as running, aiohttp.ClientSession() as session:
        for one in sorted(IDS):
            await report(session, running, predictionId=one, status="processing", owner="ann")
            await report(session, running, predictionId=one, status="succeeded")
        for one in sorted(IDS):
            await reaches(session, running.url, one, "succeeded")
        a, b = ids_in(tmp_path, "store.db"), ids_in(tmp_path, "b.db")
        assert a | b == IDS
        assert a
        assert b
        yield running


async def test_an_owner_is_erased_from_both(service: TidingsProcess, tmp_path: Path) -> None:
    """What lies in the second store is erased with the rest, and counted."""
    done = await tidings(tmp_path, "erase", "--owner", "ann", "--yes", "--json", settings=SETTINGS)
    assert done.code == 0, done.err
    assert (done.json["predictions"], done.json["deleted"]) == (len(IDS), len(IDS))
    assert ids_in(tmp_path, "store.db") | ids_in(tmp_path, "b.db") == set()
    async with aiohttp.ClientSession() as session:
        assert [await get(session, service.url, one) for one in IDS] == [None] * len(IDS)


async def test_the_audit_trail_tells_of_both(service: TidingsProcess, tmp_path: Path) -> None:
    """The steps of predictions in the second store are listed with the rest."""
    ended = await tidings(tmp_path, "audit", "export", settings=SETTINGS)
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert {line["predictionId"] for line in lines if line["kind"] == "transition"} == IDS


async def test_both_are_compared_and_mended(service: TidingsProcess, tmp_path: Path) -> None:
    """A comparison finds no fault where there is none.

    One in the second store is mended there, by the next version.
    """
    clean = await tidings(tmp_path, "replay", "--verify", "--json", settings=SETTINGS)
    assert (clean.code, clean.json["faults"], clean.json["equal"]) == (0, 0, len(IDS)), clean.out
    wrong = min(ids_in(tmp_path, "b.db"))
    with closing(sqlite3.connect(tmp_path / "data" / "b.db", timeout=10)) as store, store:
        store.execute(
            "UPDATE predictions SET doc = replace(doc, '\"ann\"', '\"bob\"') WHERE id = ?", (wrong,)
        )
    async with watching(service.ws_url, predictions=[wrong], known={wrong: 2}) as watcher:
        mended = await tidings(tmp_path, "replay", "--repair", "--json", settings=SETTINGS)
        assert (mended.code, mended.json["repaired"]) == (0, 1), mended.out
        pushed = (await watcher.until("change"))["prediction"]
        assert (pushed["version"], pushed["owner"]) == (3, "ann")
    assert wrong not in ids_in(tmp_path, "store.db")
    after = await tidings(tmp_path, "replay", "--verify", "--json", settings=SETTINGS)
    assert (after.code, after.json["faults"]) == (0, 0), after.out


async def test_a_rebuild_fills_both(service: TidingsProcess, tmp_path: Path) -> None:
    """Without `--into` each prediction is put where the service looks for it.

    One that is in use is refused.
    """
    refused = await tidings(tmp_path, "replay", settings=SETTINGS)
    assert refused.code == 1
    assert "holds records already" in refused.line
    arms = {"TIDINGS_STORE": "sqlite:///data/c.db", "TIDINGS_STORE_SPLIT": "sqlite:///data/d.db=50"}
    done = await tidings(tmp_path, "replay", "--json", settings={**SETTINGS, **arms})
    assert done.code == 0, done.err
    assert done.json["into"] == "sqlite:///data/c.db and sqlite:///data/d.db"
    assert ids_in(tmp_path, "c.db") == ids_in(tmp_path, "store.db")
    assert ids_in(tmp_path, "d.db") == ids_in(tmp_path, "b.db")


@pytest.mark.parametrize("command", ["backup", "restore"])
async def test_a_backup_of_one_of_two_is_refused(tmp_path: Path, command: str) -> None:
    """A backup holds one store, so with two there is none; one line says what to do."""
    refused = await tidings(tmp_path, command, "b.tar", settings=SETTINGS)
    assert refused.code == 2
    assert refused.line.startswith("tidings: TIDINGS_STORE_SPLIT: a backup holds one store")
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.parametrize(
    "command", [("erase", "--owner", "ann", "--yes"), ("audit", "export"), ("replay", "--repair")]
)
async def test_a_store_in_memory_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    """What lies in the service's memory cannot be seen by a command, which says so instead of finding nothing there."""
    await (await open_log(f"sqlite:///{tmp_path}/data/log.db")).close()
    await (await open_store(f"sqlite:///{tmp_path}/data/store.db")).close()
    refused = await tidings(tmp_path, *command, settings={"TIDINGS_STORE_SPLIT": "memory://=50"})
    assert refused.code == 2
    assert refused.line.startswith(
        "tidings: TIDINGS_STORE_SPLIT: memory:// is seen by the service alone"
    )


@pytest.mark.long
async def test_one_of_two_is_cloudflare_kv(tmp_path: Path) -> None:
    """Beside Cloudflare KV as one arm predictions are served, listed, kept over a restart, compared and erased."""
    emulator = CloudflareEmulator(limit=1_000_000)
    emulator.start()
    emulator.namespace("predictions")
    settings = {
        "TIDINGS_STANDARD_SECRET": SECRET,
        "TIDINGS_STORE_SPLIT": f"cloudflare-kv://{ACCOUNT}/predictions=50",
        "TIDINGS_CLOUDFLARE_TOKEN": TOKEN,
        "TIDINGS_CLOUDFLARE_URL": emulator.url,
    }
    try:
        async with serving(tmp_path, settings) as running, aiohttp.ClientSession() as session:
            for one in sorted(IDS):
                await report(
                    session, running, predictionId=one, status="processing", owner="ann", tags=["x"]
                )
            for one in sorted(IDS):
                await reaches(session, running.url, one, "processing")
        rows = ids_in(tmp_path, "store.db")
        assert rows
        assert rows < IDS
        emulator.staleness = 3600  # KV shows what was an hour ago: nothing
        async with serving(tmp_path, settings) as running, aiohttp.ClientSession() as session:
            for one in sorted(IDS):
                await report(session, running, predictionId=one, status="succeeded")
            for one in sorted(IDS):
                record = await reaches(session, running.url, one, "succeeded")
                assert record["version"] == 2
            async with session.get(f"{running.url}/api/predictions?tag=x") as answer:
                assert {one["predictionId"] for one in (await answer.json())["data"]} == IDS
            assert ids_in(tmp_path, "store.db") == rows
            emulator.staleness = 0
            clean = await tidings(tmp_path, "replay", "--verify", "--json", settings=settings)
            assert (clean.code, clean.json["faults"]) == (0, 0), clean.out + clean.err
            done = await tidings(
                tmp_path, "erase", "--owner", "ann", "--yes", "--json", settings=settings
            )
            assert (done.code, done.json["deleted"]) == (0, len(IDS)), done.out + done.err
            assert [await get(session, running.url, one) for one in IDS] == [None] * len(IDS)
        assert ids_in(tmp_path, "store.db") == set()
    finally:
        emulator.close()
