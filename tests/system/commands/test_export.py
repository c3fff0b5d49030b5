"""`tidings export`, as a real process beside a real service."""

import csv
import io
import json
from pathlib import Path

from tests.support.command import tidings
from tests.support.tidings_process import serving
from tidings.client.client import Client
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Write

COUNT = 1_203
SECRET = {"TIDINGS_JWT_SECRET": "a-secret-of-more-than-thirty-two-bytes"}


def record(number: int) -> Prediction:
    return Prediction(
        prediction_id=f"p{number:05}",
        status=Status.SUCCEEDED if number % 3 else Status.FAILED,
        version=1,
        created_at=1_764_000_000_000 + number,
        updated_at=1_764_000_000_000 + number,
        owner="ann" if number % 2 else "bob",
        prompt=f'=cat, "{number}"',
        tags=("a", "b"),
        text=f"text {number}\n",
        text_length=20,
    )


async def fill(folder: Path) -> list[Prediction]:
    """Write records into the store that a service will serve; returns them as they are exported."""
    (folder / "data").mkdir(exist_ok=True)
    store = await SqliteStore.open(f"sqlite:///{folder}/data/store.db")
    records = [record(number) for number in range(COUNT)]
    try:
        outcomes = await store.write([Write(one, encode(one), 0) for one in records])
        assert not any(outcomes)
    finally:
        await store.close()
    return records[::-1]


async def test_everything_is_exported_as_lines(tmp_path: Path) -> None:
    """Each record is one line as the store holds it, newest first, over any number of pages."""
    records = await fill(tmp_path)
    async with serving(tmp_path, SECRET) as service:
        refused = await tidings(tmp_path, "export", "--url", service.url)
        assert (refused.code, refused.out) == (1, "")
        here = {**SECRET, "TIDINGS_PORT": str(service.port)}
        ended = await tidings(tmp_path, "export", settings=here)
        assert ended.code == 0, ended.err
        assert ended.out.encode() == b"".join(encode(one) + b"\n" for one in records)

        words = ("export", "--owner", "ann", "--status", "failed", "--out", "few.ndjson", "--json")
        ended = await tidings(tmp_path, *words, settings=here)
        few = [one for one in records if one.owner == "ann" and one.status == "failed"]
        assert ended.json == {"exported": len(few), "file": "few.ndjson"}
        lines = (tmp_path / "few.ndjson").read_bytes().splitlines()
        assert lines == [encode(one) for one in few]
        between = ("--from", "1764000000001", "--until", "2025-11-24T16:00:00.003")
        ended = await tidings(tmp_path, "export", *between, settings=here)
        assert ended.out.encode().splitlines() == [encode(record(2)), encode(record(1))]
        again = await tidings(tmp_path, "export", "--out", "few.ndjson", settings=here)
        assert (again.code, "there already" in again.line) == (2, True)


async def test_a_table_is_exported(tmp_path: Path) -> None:
    """With --csv a spreadsheet shows each record in a row, and runs nothing of what is in it."""
    records = await fill(tmp_path)
    async with serving(tmp_path) as service:
        ended = await tidings(tmp_path, "export", "--csv", "--url", service.url)
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert [row["predictionId"] for row in rows] == [one.prediction_id for one in records]
    assert {row["prompt"] for row in rows} == {f"'{one.prompt}" for one in records}
    assert json.loads(rows[0]["tags"]) == ["a", "b"]
    assert rows[0]["createdAt"] == str(records[0].created_at)


async def test_the_client_exports(tmp_path: Path) -> None:
    """`Client.export` gives every record that passes its filters, with its text."""
    records = await fill(tmp_path)
    async with serving(tmp_path) as service, Client(service.url) as client:
        found = [one async for one in client.export(owner="bob")]
        assert found == [one for one in records if one.owner == "bob"]
        assert await client.count(owner="bob") == len(found)
        late = [one async for one in client.export(created_after=1_764_000_001_200)]
        assert late == records[:3]
