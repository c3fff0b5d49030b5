"""Texts grow while stores and logs fail and members come and go: every byte once, and no wrong piece is announced."""

import asyncio
import random
import zlib

import msgspec
import pytest

from tests.support.conditions import eventually
from tests.support.streams.pipeline import read
from tests.unit.streams.processing.test_pipelining import UnsteadyLog, UnsteadyStore
from tidings.storage.prediction import Status, decode
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes import codec as changes
from tidings.streams.changes.text_codec import parse_piece
from tidings.streams.log.protocol import CHANGES, DEAD_LETTERS, EVENTS, TEXT, NewRecord
from tidings.streams.processing import outages, processor
from tidings.streams.processing.processor import GROUP, Processor
from tidings.streams.rules.reducer import StorePolicy

PREDICTIONS, EACH = 8, 30


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that a few events fill."""
    monkeypatch.setattr(processor, "BATCH", 4)
    monkeypatch.setattr(processor, "BATCH_BEHIND", 16)
    monkeypatch.setattr(outages, "BACKOFF", Backoff.doubling(0.004, 0.01))
    monkeypatch.setattr(processor, "POLL", 0.001)


def word(name: str, number: int) -> str:
    return f"{name}é{number} "


def whole(name: str) -> str:
    return "".join(word(name, number) for number in range(EACH))


def pieces() -> list[NewRecord]:
    """The pieces of all texts in turn; the last one of each closes it."""
    at = dict.fromkeys((f"p{n}" for n in range(PREDICTIONS)), 0)
    found = []
    for number in range(EACH):
        for name, offset in at.items():
            text = word(name, number)
            event = {"type": "append", "text": text, "offset": offset}
            if number == EACH - 1:
                event["textClosed"] = True
            found.append(NewRecord(name.encode(), msgspec.json.encode(event)))
            at[name] = offset + len(text.encode())
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_texts_survive_outages_and_rebalances(seed: int) -> None:
    """Every text is whole at the version that its pieces make, and each piece announced is what stands there."""
    chances = random.Random(seed)
    log, store = UnsteadyLog(chances), UnsteadyStore(chances)
    policy = StorePolicy(await log.identity())
    members: list[tuple[Processor, asyncio.Task[None]]] = []

    def join() -> None:
        member = Processor(log, CachedStore(store), {}, policy)
        member.texts._flush, member.texts._latest = 0.003, 0.02
        members.append((member, asyncio.create_task(member.run())))

    join()
    events = pieces()
    for start in range(0, len(events), 12):
        await log.append(EVENTS, events[start : start + 12])
        for _ in range(chances.randrange(40)):
            await asyncio.sleep(0)
        if len(members) < 3 and chances.random() < 0.3:
            join()
        elif len(members) > 1 and chances.random() < 0.5:
            leaving, task = members.pop(chances.randrange(len(members)))
            if chances.random() < 0.5:
                leaving.stop()
            else:
                task.cancel()
            await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 20)
    log.unsteady = store.unsteady = False
    ends = {number: end for number, (_, end) in (await log.bounds(EVENTS)).items()}

    async def settled() -> bool:
        return await log.committed(EVENTS, GROUP) == ends

    await eventually(settled, 20)
    for member, task in members:
        member.stop()
        await asyncio.wait_for(task, 20)
    newest = changes.newest(await read(log, CHANGES))
    for name, stored in (await store.load([f"p{n}" for n in range(PREDICTIONS)])).items():
        record = decode(stored.encoded)
        assert (record.text, record.version) == (whole(name), EACH)
        assert record.status is Status.SUCCEEDED
        assert newest[name].value == stored.encoded
    for entry in await read(log, TEXT):
        piece = parse_piece(entry)
        assert piece is not None
        if piece.refusal is not None:
            continue
        text = whole(piece.prediction_id).encode()
        assert text[piece.before : piece.after] == piece.text
        assert zlib.crc32(text[: piece.before]) == piece.crc
    assert await read(log, DEAD_LETTERS) == []
