"""A mapping with a fault has written wrong records: mended, it writes the right ones out of the same webhooks."""

import json
from pathlib import Path

from msgspec.structs import replace

from tests.support.providers.proofs import CASES
from tests.support.streams.history import everything
from tests.support.streams.pipeline import codes, pipeline
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status
from tidings.storage.sqlite.store import SqliteStore
from tidings.streams.log.headers import DELIVERY_HEADER, PROVIDER_HEADER
from tidings.streams.log.protocol import EVENTS, Log, NewRecord
from tidings.streams.providers.catalog.replicate import Replicate, open_provider
from tidings.streams.providers.protocol import Webhook
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.rules.event import Event
from tidings.streams.rules.reducer import StorePolicy

PREDICTIONS = 250
ENDS = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.SUCCEEDED)


class Planted(Replicate, frozen=True):
    """Replicate's mapping with three faults: failures succeed, pictures are previews, and `canceled` is an exception."""

    def translate(self, webhook: Webhook) -> Event:
        event = super().translate(webhook)
        if event.status is Status.CANCELED:
            raise KeyError("canceled")
        if event.status is Status.FAILED:
            return replace(event, status=Status.SUCCEEDED, error=None)
        return (
            replace(event, image_url="https://e.com/preview.png")
            if event.image_url is not None
            else event
        )


def name(number: int) -> str:
    return f"p{number}"


def webhooks(number: int) -> list[bytes]:
    """Four of a prediction: it begins, works, ends, and the end is told once more with other bytes."""
    end = ENDS[number % len(ENDS)]
    last = {"id": name(number), "status": end.value, "metrics": {"predict_time": number}}
    if end is Status.SUCCEEDED:
        last["output"] = f"https://e.com/{number}.png"
    if end is Status.FAILED:
        last["error"] = f"reason {number}"
    said = [
        {"id": name(number), "status": "starting"},
        {"id": name(number), "status": "processing", "logs": "a\n"},
        last,
    ]
    return [json.dumps(one).encode() for one in (*said, {**last, "data_removed": True})]


def wrong(record: Prediction, number: int) -> bool:
    """Whether a record says something else than its webhooks did."""
    end = ENDS[number % len(ENDS)]
    picture = f"https://e.com/{number}.png" if end is Status.SUCCEEDED else None
    error = f"reason {number}" if end is Status.FAILED else None
    steps = [step.to for step in record.transitions]
    told = (record.status, record.image_url, record.error, record.logs, record.generation_time)
    return told != (end, picture, error, "a\n", number * 1000) or steps != [
        "starting",
        "processing",
        end,
    ]


async def test_a_mended_mapping_mends_the_records(log: Log, tmp_path: Path) -> None:
    """A thousand webhooks, most of them translated wrongly or not at all: a replay with the mended mapping is right."""
    configuration = next(case.configuration for case in CASES if case.provider == "replicate")
    mended = open_provider("replicate", configuration)
    assert mended is not None
    planted = Planted(mended.keys, mended.name)
    records = [
        NewRecord(
            name(n).encode(),
            body,
            [(PROVIDER_HEADER, b"replicate"), (DELIVERY_HEADER, b"m%d-%d" % (n, which))],
        )
        for n in range(PREDICTIONS)
        for which, body in enumerate(webhooks(n))
    ]
    assert len(records) == 1000
    live = MemoryStore()
    async with pipeline(log, live, providers={"replicate": planted}) as running:
        await log.append(EVENTS, records)
        await running.settled(60)
        letters = await running.letters()
        canceled = sum(ENDS[n % len(ENDS)] is Status.CANCELED for n in range(PREDICTIONS))
        assert codes(letters) == ["translation-failed"] * (2 * canceled)
        stood = [await running.prediction(name(n)) for n in range(PREDICTIONS)]
        assert all(wrong(record, n) for n, record in enumerate(stood))

    store = await SqliteStore.open(f"sqlite:///{tmp_path}/mended.db")
    rebuild = Rebuild(log, store, {"replicate": mended}, StorePolicy(await log.identity()))
    await rebuild.require_empty()
    await rebuild.run(await span(log))
    assert (rebuild.progress.read, rebuild.progress.poison, rebuild.progress.rejected) == (
        1000,
        0,
        0,
    )
    loaded = await store.load([name(n) for n in range(PREDICTIONS)])
    for number in range(PREDICTIONS):
        standing = loaded[name(number)].standing()
        assert isinstance(standing, Prediction)
        assert not wrong(standing, number), standing
    again = MemoryStore()
    repeat = Rebuild(log, again, {"replicate": mended}, StorePolicy(await log.identity()))
    await repeat.run(await span(log))
    assert await everything(again) == await everything(store)
    await store.close()
