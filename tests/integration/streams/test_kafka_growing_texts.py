"""Growing texts on a real broker: pieces keep their order, and what is held back is written before partitions move."""

import asyncio
from typing import Any

import msgspec

from tests.support.conditions import eventually
from tests.support.streams.pipeline import pipeline, read
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import decode
from tidings.streams.changes.text_codec import parse_piece
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, TEXT, Log, NewRecord
from tidings.streams.processing.processor import GROUP


async def append(log: Log, prediction_id: str, text: str, offset: int, **more: Any) -> None:
    event = {"type": "append", "text": text, "offset": offset, **more}
    await log.append(EVENTS, [NewRecord(prediction_id.encode(), msgspec.json.encode(event))])


async def test_what_is_held_back_is_written_before_partitions_move(
    kafka_url: str, topic_prefix: str
) -> None:
    """A second member joins while texts grow: the first writes and commits what it holds, and the second goes on."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=2)
    other = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=2)
    store = MemoryStore()
    names = [f"p{number}" for number in range(6)]
    try:
        async with pipeline(log, store) as one:
            one.processor.texts._flush = one.processor.texts._latest = 600.0
            for name in names:
                await append(log, name, "The ", 0)
            await one.settled(60)
            for name in names:
                await append(log, name, "quick ", 4)
                await append(log, name, "brown ", 10)

            async def announced() -> bool:
                found = [parse_piece(record) for record in await read(log, TEXT)]
                told = [piece for piece in found if piece is not None]
                return sum(len(piece.text) for piece in told) == 12 * len(names)

            await eventually(announced, 30)
            loaded = await store.load(names)
            assert {stored.version for stored in loaded.values()} == {1}
            async with pipeline(other, store) as two:
                two.processor.texts._flush = two.processor.texts._latest = 600.0

                async def written() -> bool:
                    now = await store.load(names)
                    return {stored.version for stored in now.values()} == {3}

                await eventually(written, 30)

                def shared() -> bool:
                    members = (one.processor.consumer, two.processor.consumer)
                    return all(member is not None and member.assigned() for member in members)

                await eventually(shared, 30)
                for name in names:
                    await append(log, name, "fox", 16, textClosed=True)
                await one.settled(60)
        assert one.processor.statistics.duplicates == two.processor.statistics.duplicates == 0
        for stored in (await store.load(names)).values():
            record = decode(stored.encoded)
            assert (record.text, record.version) == ("The quick brown fox", 4)
        committed = await log.committed(EVENTS, GROUP)
        assert sum(committed.values()) == 4 * len(names)
    finally:
        await asyncio.gather(log.close(), other.close())
