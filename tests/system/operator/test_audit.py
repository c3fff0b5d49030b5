"""The audit trail as an export, of a service that runs."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.storage.samples import prediction, writing
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, get, reaches, signed
from tidings.storage.factory import open_store
from tidings.storage.prediction import Status, Transition
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

STEPS = ["starting", "processing", "succeeded"]


async def report(
    session: aiohttp.ClientSession, service: TidingsProcess, delivery: str, **fields: Any
) -> None:
    body, url = json.dumps(fields).encode(), f"{service.url}/api/webhooks/standard"
    async with session.post(url, data=body, headers=signed(body, delivery=delivery)) as response:
        assert response.status == 200


async def export(folder: Path, settings: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    """The lines of `tidings audit export`."""
    ended = await tidings(folder, "audit", "export", *arguments, settings=settings)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


async def test_everything_that_happened_is_listed_by_time(
    settings: dict[str, str], service: TidingsProcess, tmp_path: Path
) -> None:
    """Steps, a deletion, an erasure, a repair and a redrive come out by time, each with its event, and twice the same."""
    async with aiohttp.ClientSession() as session:
        for number in range(5):
            name = f"p{number}"
            await report(
                session, service, f"a{number}", predictionId=name, status="processing", owner="ann"
            )
            await report(session, service, f"b{number}", predictionId=name, status="succeeded")
            await reaches(session, service.url, name, "succeeded")
        await report(
            session, service, "late", predictionId="p0", status="failed"
        )  # a contradiction
        await report(session, service, "e", predictionId="e1", status="processing", owner="bob")
        await reaches(session, service.url, "e1", "processing")
        async with session.delete(f"{service.url}/api/predictions/p4") as response:
            assert response.status == 204
        erased = await tidings(tmp_path, "erase", "--owner", "bob", "--yes", settings=settings)
        assert erased.code == 0, erased.out

        async def lying() -> bool:
            listed = await tidings(tmp_path, "dead-letters", "list", "--json", settings=settings)
            return bool(listed.json["count"] == 1)

        await eventually(lying, 30)
        redriven = await tidings(
            tmp_path, "dead-letters", "redrive", "--all", "--yes", settings=settings
        )
        assert redriven.code == 0
        lines = await export(tmp_path, settings)
        assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
        assert await export(tmp_path, settings) == lines

        steps = [
            line for line in lines if line["kind"] == "transition" and line["predictionId"] == "p1"
        ]
        assert [(line["from"], line["to"]) for line in steps] == [
            (None, "starting"),
            ("starting", "processing"),
            ("processing", "succeeded"),
        ]
        assert [line["eventId"] for line in steps] == ["a1", "a1", "b1"]
        assert all(line["owner"] == "ann" and ":" in line["position"] for line in steps)
        others = {
            (line["kind"], line["predictionId"]): line
            for line in lines
            if line["kind"] != "transition"
        }
        assert set(others) == {("deletion", "p4"), ("erasure", "e1"), ("redrive", "p0")}
        assert others["deletion", "p4"]["version"] == 3
        assert others["erasure", "e1"]["source"] == "tidings erase"
        assert others["redrive", "p0"]["eventId"] == "late"

        assert await export(tmp_path, settings, "--only", "p1") == steps
        assert {line["owner"] for line in await export(tmp_path, settings, "--owner", "bob")} == {
            "bob"
        }
        middle = steps[-1]["at"]
        before = await export(tmp_path, settings, "--until", str(middle))
        after = await export(tmp_path, settings, "--from", str(middle))
        assert before + after == lines

        table = await tidings(tmp_path, "audit", "export", "--csv", settings=settings)
        rows = list(csv.DictReader(io.StringIO(table.out)))
        assert [row["predictionId"] for row in rows] == [line["predictionId"] for line in lines]
        done = await tidings(
            tmp_path, "audit", "export", "--out", "trail.jsonl", "--json", settings=settings
        )
        assert done.json == {"exported": len(lines), "file": "trail.jsonl"}
        assert len((tmp_path / "trail.jsonl").read_text().splitlines()) == len(lines)
        again = await tidings(
            tmp_path, "audit", "export", "--out", "trail.jsonl", settings=settings
        )
        assert again.code == 2
        assert "trail.jsonl is there already" in again.line


async def test_what_the_log_tells_no_more_is_listed(tmp_path: Path) -> None:
    """The steps of a hidden prediction of which neither an event nor a change is left come from the store."""
    async with serving(tmp_path, {}):
        store = await open_store(f"sqlite:///{tmp_path}/data/store.db")
        step = Transition(None, Status.STARTING, 5, "e1", None, "0:1")
        await store.write(
            [writing(prediction("old", owner="ann", transitions=(step,)), 0, expires_at=1)]
        )
        await store.close()
        (line,) = await export(tmp_path, {}, "--owner", "ann")
    assert (line["predictionId"], line["to"], line["at"], line["eventId"]) == (
        "old",
        "starting",
        5,
        "e1",
    )


async def test_an_export_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """Where the store is away nothing is left under the name of `--out`, so that the next try may have it."""
    away = {"TIDINGS_STORE": "postgresql://u@127.0.0.1:1/x"}
    assert (
        await tidings(tmp_path, "replay", "--dry-run")
    ).code == 1  # without a log nothing begins
    (tmp_path / "data").mkdir()
    await (await open_log(f"sqlite:///{tmp_path}/data/log.db")).close()
    for _ in range(2):
        failed = await tidings(tmp_path, "audit", "export", "--out", "trail.jsonl", settings=away)
        assert failed.code == 1
        assert "127.0.0.1:1" in failed.line
        assert not (tmp_path / "trail.jsonl").exists()


async def test_hidden_predictions_and_repairs_are_listed(tmp_path: Path) -> None:
    """What no read shows any more still has its steps, and a repair is told with the version that it gave."""
    settings = {"TIDINGS_STANDARD_SECRET": SECRET, "TIDINGS_TTL": "1"}
    async with aiohttp.ClientSession() as session, serving(tmp_path, settings) as service:
        await report(session, service, "a", predictionId="p1", status="succeeded")
        await reaches(session, service.url, "p1", "succeeded")
        record = await get(session, service.url, "p1")
        assert record is not None
        mended = json.dumps({**record, "prompt": "mended"}).encode()
        repair = b'{"type":"repair","version":2,"upto":{"0":9},"replace":' + mended + b"}"

        async def hidden() -> bool:
            return await get(session, service.url, "p1") is None

        await eventually(hidden, 20)
        log = await open_log(f"sqlite:///{tmp_path}/data/log.db")
        await log.append(EVENTS, [NewRecord(b"p1", repair)])
        await log.close()
        lines = await export(tmp_path, settings)
        assert [line["to"] for line in lines if line["kind"] == "transition"] == STEPS
        (line,) = [line for line in lines if line["kind"] == "repair"]
        assert (line["predictionId"], line["version"]) == ("p1", 2)
