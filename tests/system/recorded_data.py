"""Data folders as earlier formats left them, kept as SQL: `python -m tests.system.recorded_data` records this one's.

A folder `data_of_format_N` is recorded once, by the version that had the format, and never again.
"""

import asyncio
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import aiohttp

from tests.support import webhooks
from tests.support.tidings_process import serving
from tests.support.webhooks import SECRET, get, reaches, signed
from tidings.storage.sqlite.schema import FORMAT

RECORDED = Path(__file__).parent
PARTS = ("log.db", "store.db")
MARKS = ("application_id", "user_version")
SETTINGS = {
    "TIDINGS_REPLICATE_SECRET": SECRET,
    "TIDINGS_TTL": "0",
    "TIDINGS_TTL_RUNNING": "0",
    "TIDINGS_RETENTION": "3153600000",
    "TIDINGS_ARCHIVE": "off",
}
"""Nothing of it is ever too old."""


def lay_down(number: int, folder: Path) -> dict[str, dict[str, object]]:
    """Make the data folder of a format; its predictions by id, as that version gave them."""
    source = RECORDED / f"data_of_format_{number}"
    folder.mkdir()
    for part in PARTS:
        with closing(sqlite3.connect(folder / part)) as connection:
            connection.executescript((source / f"{part}.sql").read_text())
    recorded: dict[str, dict[str, object]] = json.loads((source / "predictions.json").read_text())
    return recorded


async def record() -> None:
    """Write down what this version makes of a few webhooks."""
    target = RECORDED / f"data_of_format_{FORMAT}"
    target.mkdir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with serving(folder, SETTINGS) as service, aiohttp.ClientSession() as session:
            bodies = (
                webhooks.start("p1"),
                webhooks.logs("p1"),
                webhooks.start("p2"),
                webhooks.report("p2"),
            )
            for body in (
                *bodies,
                webhooks.start("p3"),
                webhooks.report("p4", status="failed", error="out of memory"),
            ):
                post = session.post(
                    f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
                )
                async with post as response:
                    assert response.status == 200
            await reaches(session, service.url, "p4", "failed")
            async with session.delete(f"{service.url}/api/predictions/p3") as response:
                assert response.status == 204
            predictions = {one: await get(session, service.url, one) for one in ("p1", "p2", "p4")}
        (target / "predictions.json").write_text(json.dumps(predictions, indent=1) + "\n")
        for part in PARTS:
            with closing(sqlite3.connect(folder / "data" / part)) as connection:
                marks = {mark: connection.execute(f"PRAGMA {mark}").fetchone()[0] for mark in MARKS}
                lines = [
                    *connection.iterdump(),
                    *(f"PRAGMA {mark} = {value};" for mark, value in marks.items()),
                ]
            (target / f"{part}.sql").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    asyncio.run(record())
