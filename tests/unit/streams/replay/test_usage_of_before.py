"""Webhooks from before usage was read give the bytes that they always gave."""

from msgspec.structs import replace

from tests.support.providers.proofs import CASES
from tests.support.streams.history import everything
from tests.support.streams.pipeline import pipeline
from tests.support.webhooks import COMPLETED
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Usage
from tidings.streams.log.headers import PROVIDER_HEADER
from tidings.streams.log.protocol import EVENTS, Log, NewRecord
from tidings.streams.providers.catalog.replicate import open_provider
from tidings.streams.providers.protocol import USAGE_STAMP
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.rules.reducer import StorePolicy


async def test_a_replay_reads_usage_out_of_what_is_stamped_alone(log: Log) -> None:
    """Of the same body, one appended before and one since, the records differ in their usage alone, and a replay gives both."""
    configuration = next(case.configuration for case in CASES if case.provider == "replicate")
    provider = open_provider("replicate", configuration)
    assert provider is not None
    old = [(PROVIDER_HEADER, b"replicate")]
    live, again = MemoryStore(), MemoryStore()
    async with pipeline(log, live, providers={"replicate": provider}) as running:
        await log.append(
            EVENTS,
            [NewRecord(b"p0", COMPLETED, old), NewRecord(b"p1", COMPLETED, [*old, USAGE_STAMP])],
        )
        await running.settled()
        before, since = await running.prediction("p0"), await running.prediction("p1")
    assert (before.usage, since.usage) == (None, Usage(seconds=5.247161016, images=1))
    same = {
        "usage": None,
        "prediction_id": "",
        "source": None,
        "transitions": (),
        "updated_at": 0,
        "created_at": 0,
    }
    assert replace(before, **same) == replace(since, **same)
    rebuild = Rebuild(log, again, {"replicate": provider}, StorePolicy(await log.identity()))
    await rebuild.run(await span(log))
    assert await everything(again) == await everything(live)
