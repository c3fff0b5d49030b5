"""One record costs more memory than there is: it ends the processor a few times, and is set aside; nothing else is."""

import sys
from pathlib import Path

import aiohttp

from tests.chaos.crashes.test_crashes import KEY
from tests.support import webhooks
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import get, reaches, signed
from tidings.streams.processing.crash_journal import ENDS, STARTS


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    async with session.post(
        f"{url}/api/webhooks/replicate", data=body, headers=signed(body)
    ) as response:
        assert response.status == 200


async def test_a_record_that_no_process_survives_is_set_aside(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """After two ends and three more that are noted it is a dead letter, and what lies before and behind it is applied."""
    common = {**settings, **KEY}
    program = (sys.executable, "-m", "tests.chaos.crashes.deadly_mortal")
    arguments = ("serve", "--role", "processor")
    async with (
        serving(tmp_path, common, arguments=("serve", "--role", "gateway")) as gateway,
        aiohttp.ClientSession() as session,
    ):
        for name in ("before", "deadly", "behind"):
            await post(session, gateway.url, webhooks.report(name, input={"prompt": name}))
        for _ in range(STARTS + ENDS):
            doomed = TidingsProcess(tmp_path, common, arguments, program)
            await doomed.launch()
            assert await doomed.ended(60) == -9, doomed.output
        survivor = TidingsProcess(tmp_path, common, arguments, program)
        await survivor.launch()
        try:
            for name in ("before", "behind"):
                await reaches(session, gateway.url, name, "succeeded", within=40)
            assert await get(session, gateway.url, "deadly") is None
            async with session.get(f"{gateway.url}/api/dead-letters") as response:
                letters = (await response.json())["data"]
            assert [(one["reason"], one["predictionId"]) for one in letters] == [
                ("crash", "deadly")
            ]
        finally:
            await survivor.kill()
