"""Data that an earlier version left, under this one."""

from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.tidings_process import serving
from tests.support.webhooks import get, reaches, signed
from tests.system.recorded_data import RECORDED, SETTINGS, lay_down

FORMATS = sorted(
    int(folder.name.rpartition("_")[2]) for folder in RECORDED.glob("data_of_format_*")
)


@pytest.mark.parametrize("number", FORMATS)
async def test_the_data_folder_of_each_format_is_served(tmp_path: Path, number: int) -> None:
    """Every prediction reads as it did then, but for the provider's body (`report`), which records do not show any more.

    It goes on with the next webhook, and the log still rebuilds the store.
    """
    recorded = lay_down(number, tmp_path / "data")
    for record in recorded.values():
        record.pop("report", None)
    async with serving(tmp_path, SETTINGS) as service, aiohttp.ClientSession() as session:
        for one, record in recorded.items():
            assert await get(session, service.url, one) == record
        assert await get(session, service.url, "p3") is None  # it was deleted
        body = webhooks.report("p1")
        post = session.post(
            f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
        )
        async with post as response:
            assert response.status == 200
        await reaches(session, service.url, "p1", "succeeded")
        changed = await get(session, service.url, "p1")
        assert changed is not None
        assert changed["version"] == int(str(recorded["p1"]["version"])) + 1
        verified = await tidings(tmp_path, "replay", "--verify", "--json", settings=SETTINGS)
        assert (verified.code, verified.json["faults"]) == (0, 0), verified.out
