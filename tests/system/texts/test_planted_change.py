"""One byte of a text is changed in the store behind everybody's back: it is found, and mended for readers."""

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.support.webhooks import watching
from tidings.client.client import Client

WORDS = [f"wörd {number} 🎉 " for number in range(200)]


@pytest.mark.parametrize(
    "log_settings", ["sqlite", pytest.param("kafka", marks=pytest.mark.long)], indirect=True
)
async def test_a_planted_byte_is_found_and_mended(
    log_settings: dict[str, str], tmp_path: Path
) -> None:
    """`--verify` names the text of which one byte was changed, `--repair` brings the right one to whoever watches."""
    whole = "".join(WORDS)
    async with serving(tmp_path, log_settings) as service:
        async with Client(service.url) as client, client.text("p1") as text:
            for word in WORDS:
                await text.write(word)
        clean = await tidings(tmp_path, "replay", "--verify", settings=log_settings)
        assert clean.code == 0, clean.out + clean.err
        with closing(sqlite3.connect(tmp_path / "data" / "store.db")) as store, store:
            changed = store.execute(
                "UPDATE predictions SET doc = replace(doc, 'wörd 77 ', 'wörd 78 ') WHERE id = 'p1'"
            )
            assert changed.rowcount == 1
        found = await tidings(tmp_path, "replay", "--verify", settings=log_settings)
        assert (found.code, "p1" in found.out) == (1, True), found.out + found.err
        async with watching(service.ws_url, predictions=["p1"], text="append") as watcher:
            mended = await tidings(tmp_path, "replay", "--repair", settings=log_settings)
            assert mended.code == 0, mended.out + mended.err

            async def told() -> bool:
                message = await watcher.receive()
                return bool(message.get("prediction", {}).get("text") == whole)

            await eventually(told, 20)
        async with httpx.AsyncClient(base_url=service.url) as http:
            read = await http.get("/api/predictions/p1/text")
            assert read.text == whole
        after = await tidings(tmp_path, "replay", "--verify", settings=log_settings)
        assert after.code == 0, after.out + after.err
