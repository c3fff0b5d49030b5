"""`tidings usage` and `tidings list`, as real processes beside a real service."""

import json
from pathlib import Path

from tests.support.command import tidings
from tests.support.tidings_process import serving
from tidings.client.client import Client
from tidings.storage.prediction import Prediction, Status, Usage, encode
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Write

T0 = 1_764_000_000_000
DAY = 86_400_000


def record(number: int) -> Prediction:
    return Prediction(
        prediction_id=f"p{number}",
        status=Status.FAILED if number % 3 == 0 else Status.SUCCEEDED,
        version=1,
        created_at=T0 + number * DAY,
        updated_at=T0 + number * DAY,
        owner="ann" if number % 2 else "bob",
        provider="fal" if number % 2 else "luma",
        prompt=f"a heron, number {number}",
        error="NSFW content" if number % 3 == 0 else None,
        usage=Usage(seconds=1.5, cost="0.1", currency="EUR"),
    )


async def test_usage_and_lists_on_the_command_line(tmp_path: Path) -> None:
    """Sums come as a table and as JSON, lists go by provider, error and words, and the clients say the same."""
    (tmp_path / "data").mkdir()
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/data/store.db")
    records = [record(number) for number in range(6)]
    await store.write([Write(one, encode(one), 0) for one in records])
    await store.close()
    async with serving(tmp_path) as service:

        async def said(*arguments: str) -> str:
            ended = await tidings(tmp_path, *arguments, "--url", service.url)
            assert ended.code == 0, ended.err
            return ended.out

        table = (await said("usage", "--by", "owner")).splitlines()
        assert table[0].split()[:2] == ["owner", "predictions"]
        assert table[1].split() == ["ann", "3", "0", "0", "4.50", "0", "0.3", "EUR"]
        lines = await said(
            "usage", "--by", "day", "--from", "2025-11-26", "--to", "2025-11-28", "--json"
        )
        found = [json.loads(line) for line in lines.splitlines()]
        assert [(row["day"], row["costs"]) for row in found] == [
            ("2025-11-26", {"EUR": "0.1"}), ("2025-11-27", {"EUR": "0.1"}),
        ]  # fmt: skip
        assert "owner" not in found[0]
        listed = await said(
            "list", "--provider", "fal", "--error", "nsfw", "--search", "HERON, number 3", "--json"
        )
        assert listed.encode() == encode(records[3]) + b"\n"
        assert [
            line.split()[3] for line in (await said("list", "--limit", "2")).splitlines()[1:]
        ] == ["p5", "p4"]
        wrong = await tidings(tmp_path, "usage", "--by", "colour", "--url", service.url)
        assert (wrong.code, "colour" in wrong.line) == (2, True)
        async with Client(service.url) as client:
            (one,) = await client.usage(owner="bob")
            assert (one.predictions, one.seconds, one.costs) == (3, 4.5, {"EUR": "0.3"})
            page = await client.list(provider="luma", error="NSFW content", text="number 0")
            assert [found.prediction_id for found in page.data] == ["p0"]
