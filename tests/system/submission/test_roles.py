"""The reconciler as a role of its own.

On SQLite beside the gateway's process, on Kafka as several that share the work.
"""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.conditions import eventually
from tests.support.providers.bad_days import BadDays
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import Work, at_work, creates


async def _roles(folder: Path, places: dict[str, str], reconcilers: int) -> None:
    """A gateway with a processor, and so many reconcilers, one of which ends in between."""
    async with FaultyStandIn(duration=0.2, steps=2) as stand_in, AsyncExitStack() as stack:
        stand_in.bad_days = BadDays(never=1)
        work = await stack.enter_async_context(
            at_work(folder, stand_in, {**places, "TIDINGS_ROLE": "gateway,processor"})
        )
        apart = [AsyncExitStack() for _ in range(reconcilers)]
        running: list[Work] = []
        for place in apart:
            # Their own address is of no use to a provider: the gateway's is.
            settings = {
                "TIDINGS_ROLE": "reconciler",
                "TIDINGS_PUBLIC_URL": f"http://127.0.0.1:{work.service.port}",
            }
            running.append(
                await place.enter_async_context(at_work(folder, stand_in, {**places, **settings}))
            )
            stack.push_async_callback(place.aclose)
        for other in running:
            await eventually(lambda other=other: _ready(other), 30)  # type: ignore[misc]
        made = [await work.create() for _ in range(12)]
        stopped = await work.create(payload={"duration": 600})
        await work.becomes(stopped["predictionId"], "processing")
        await work.cancel(stopped["predictionId"])
        for one in made:
            await work.becomes(one["predictionId"], "succeeded")
        await work.becomes(stopped["predictionId"], "canceled")
        if reconcilers > 1:
            await apart[0].aclose()
            again = await work.create()
            await work.becomes(again["predictionId"], "succeeded")
        assert set(creates(stand_in).values()) == {1}


async def _ready(work: Work) -> bool:
    return (await work.client.get("/readyz")).status_code == 200


async def test_on_sqlite(tmp_path: Path) -> None:
    """A process that reconciles alone looks up and cancels what another one's gateway submitted."""
    await _roles(tmp_path, {}, reconcilers=1)


@pytest.mark.kafka
async def test_on_kafka(tmp_path: Path, kafka_url: str, topic_prefix: str) -> None:
    """Two reconcilers share the partitions; when one ends, the other does all."""
    places = {
        "TIDINGS_LOG": kafka_url,
        "TIDINGS_TOPIC_PREFIX": topic_prefix,
        "TIDINGS_PARTITIONS": "4",
    }
    await _roles(tmp_path, places, reconcilers=2)
