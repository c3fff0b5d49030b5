"""An estimated time may be any number.

It ends no service, and hides no other prediction from the reconciler.
"""

from pathlib import Path

from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import at_work


async def test_an_estimate_beyond_all_bounds(tmp_path: Path) -> None:
    """An estimate that no int can hold keeps no other prediction from being looked up."""
    async with FaultyStandIn(duration=0.2, steps=2) as stand_in:
        async with at_work(tmp_path, stand_in) as work:
            work.bad(never=1)
            odd = [
                await work.create(payload={"duration": 600}, estimatedTime=value)
                for value in (1.7e308, 10**310)
            ]
            for made in odd:
                await work.becomes(made["predictionId"], "processing")
            silent = await work.create()
            await work.becomes(silent["predictionId"], "succeeded")
        async with at_work(tmp_path, stand_in) as work:
            silent = await work.create()
            await work.becomes(silent["predictionId"], "succeeded")
            for made in odd:
                await work.cancel(made["predictionId"])
                await work.becomes(made["predictionId"], "canceled")
