"""Erasing what is kept of a person."""

import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.storage.samples import prediction, writing
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, get, reaches, signed, watching
from tidings.storage.factory import open_store

OWN = {"TIDINGS_STANDARD_SECRET": SECRET}


async def report(session: aiohttp.ClientSession, service: TidingsProcess, **fields: Any) -> None:
    body = json.dumps(fields).encode()
    async with session.post(
        f"{service.url}/api/webhooks/standard", data=body, headers=signed(body)
    ) as response:
        assert response.status == 200


async def test_everything_of_an_owner_goes(
    settings: dict[str, str], service: TidingsProcess, tmp_path: Path
) -> None:
    """Every prediction of the owner is deleted and its watchers are told.

    Others' stand; the report says what stays till when.
    """
    async with aiohttp.ClientSession() as session, watching(service.ws_url, all=True) as watcher:
        for number in range(30):
            owner = "ann" if number % 3 else "bob"
            await report(
                session, service, predictionId=f"p{number}", status="succeeded", owner=owner
            )
        for number in range(30):
            await reaches(session, service.url, f"p{number}", "succeeded")
        await report(
            session, service, predictionId="p1", status="failed"
        )  # a dead letter with its key
        dry = await tidings(
            tmp_path, "erase", "--owner", "ann", "--yes", "--dry-run", "--json", settings=settings
        )
        assert (dry.code, dry.json["predictions"], dry.json["deleted"]) == (0, 20, 0)
        done = await tidings(
            tmp_path, "erase", "--owner", "ann", "--yes", "--json", settings=settings
        )
        assert done.code == 0, done.err
        assert (done.json["predictions"], done.json["deleted"]) == (20, 20)
        places = " ".join(trace["place"] for trace in done.json["traces"])
        for place in (
            "store",
            "caches",
            "assets",
            "predictions.events",
            "predictions.changes",
            "predictions.text",
            "dead-letters",
        ):
            assert place in places
        gone = {(await watcher.until("deleted"))["predictionId"] for _ in range(20)}
        assert gone == {f"p{number}" for number in range(30) if number % 3}
        for number in range(30):
            record = await get(session, service.url, f"p{number}")
            assert (record is None) == bool(number % 3)
        again = await tidings(tmp_path, "erase", "--owner", "ann", "--yes", settings=settings)
        assert again.code == 0
        assert "0 of 0 predictions" in again.out


async def test_parts_of_a_text_go_with_it(tmp_path: Path) -> None:
    """The parts of a large text in object storage are removed once their prediction is erased."""
    parts = tmp_path / "data" / "assets" / "blobs"

    def kept() -> list[Path]:
        return [file for file in parts.rglob("*") if file.is_file()]

    async with aiohttp.ClientSession() as session, serving(tmp_path, OWN) as service:
        text = "".join(f"{number:06d} " for number in range(10_000))
        piece = {"type": "append", "text": text, "offset": 0, "owner": "ann"}
        await report(session, service, predictionId="p1", **piece)
        await report(session, service, predictionId="p1", status="succeeded")
        record = await reaches(session, service.url, "p1", "succeeded")
        assert (record["textLength"], len(record["textParts"])) == (70_000, 2)
        assert len(kept()) == 3  # two parts, and the note whose they are
        done = await tidings(tmp_path, "erase", "--owner", "ann", "--yes", settings=OWN)
        assert done.code == 0, done.err
        await eventually(lambda: not kept(), 20)


async def test_hidden_predictions_are_erased_too(tmp_path: Path) -> None:
    """What no list shows any more, because its time has passed, is found and deleted all the same."""
    short = {**OWN, "TIDINGS_TTL": "1"}
    async with aiohttp.ClientSession() as session, serving(tmp_path, short) as service:
        await report(session, service, predictionId="p1", status="succeeded", owner="ann")
        await reaches(session, service.url, "p1", "succeeded")

        async def hidden() -> bool:
            return await get(session, service.url, "p1") is None

        await eventually(hidden, 20)
        done = await tidings(tmp_path, "erase", "--owner", "ann", "--yes", "--json", settings=short)
        assert (done.code, done.json["predictions"], done.json["deleted"]) == (0, 1, 1)


async def test_what_the_log_tells_no_more_is_erased_too(tmp_path: Path) -> None:
    """What is hidden, and of which neither an event nor a change is left, is found in the store and deleted."""
    async with serving(tmp_path, OWN) as service, aiohttp.ClientSession() as session:
        await report(session, service, predictionId="p1", status="succeeded", owner="ann")
        await reaches(session, service.url, "p1", "succeeded")
        store = await open_store(f"sqlite:///{tmp_path}/data/store.db")
        try:
            old = [
                writing(prediction(f"old{number}", owner="ann"), 0, expires_at=1)
                for number in range(3)
            ]
            others = [writing(prediction("other", owner="bob"), 0, expires_at=1)]
            assert await store.write([*old, *others]) == [None] * 4
            done = await tidings(
                tmp_path, "erase", "--owner", "ann", "--yes", "--json", settings=OWN
            )
            assert (done.code, done.json["predictions"], done.json["deleted"]) == (0, 4, 4), (
                done.err
            )
            standing = await store.load(["old0", "old1", "old2", "other"])
            assert [one for one, stored in standing.items() if not stored.deleted] == ["other"]
        finally:
            await store.close()


async def test_without_a_service_it_says_so(tmp_path: Path) -> None:
    """Where nothing processes the deletions the command ends with 1 and says what they wait for."""
    async with aiohttp.ClientSession() as session, serving(tmp_path, OWN) as service:
        await report(session, service, predictionId="p1", status="succeeded", owner="ann")
        await reaches(session, service.url, "p1", "succeeded")
    waiting = await tidings(
        tmp_path, "erase", "--owner", "ann", "--yes", "--within", "0.5", settings=OWN
    )
    assert waiting.code == 1
    assert "0 of 1" in waiting.out
    assert "is the service running" in waiting.out
