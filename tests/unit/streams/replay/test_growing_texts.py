"""Comparing and mending records whose texts grow: the record lies behind what was judged, and that is no fault."""

from typing import Any

from msgspec.structs import replace

from tests.support.conditions import eventually
from tests.support.streams.history import compared, everything, rebuilt
from tests.support.streams.pipeline import Pipeline, pipeline, read
from tidings.cli.support.comparison import plan
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import decode, encode
from tidings.storage.store import Stored, Write
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, TEXT


def piece(text: str, offset: int, **more: Any) -> dict[str, Any]:
    return {"type": "append", "text": text, "offset": offset, **more}


async def growing(one: Pipeline, pieces: int) -> None:
    """A prediction whose record has its first piece alone, while more were announced."""
    one.processor.texts._flush = one.processor.texts._latest = 600.0
    await one.send(piece("The ", 0))
    await one.settled()
    for number in range(pieces):
        await one.send(piece("cat ", 4 + 4 * number))

    async def announced() -> bool:
        last = (await read(one.log, TEXT))[-1:]
        return bool(last) and dict(last[0].headers)["p"] == b"0:%d" % pieces

    await eventually(announced, 10)


async def plant(store: MemoryStore, wrong: str) -> Stored:
    """Change the record's text behind everybody's back, its version as it was; returns what stood."""
    stored = (await store.load(["p1"]))["p1"]
    record = replace(decode(stored.encoded), text=wrong)
    store._rows.pop("p1")  # a person's own SQL asks for no version
    await store.write([Write(record, encode(record), 0, stored.expires_at)])
    return stored


async def test_a_growing_text_is_judged_as_of_its_records_position() -> None:
    """A record that lies behind is no fault where it is what the log said then."""
    log, live = MemoryLog(), MemoryStore()
    async with pipeline(log, live) as one:
        await growing(one, 3)
        found = await compared(log, live)
        assert found.by_kind() == {"behind": 1}
        assert not found.faults
    found = await compared(log, live)
    assert (found.differences, found.equal) == ([], 1)


async def test_a_planted_change_of_a_growing_text_is_found_and_left_until_the_end() -> None:
    """One byte of a growing text is found; a repair waits for the end, since the processor holds what has grown."""
    log, live = MemoryLog(), MemoryStore()
    async with pipeline(log, live, cached=False) as one:
        await growing(one, 2)
        stood = await plant(live, "Tha ")
        found = await compared(log, live)
        assert found.by_kind() == {"different": 1}
        repairs, left = plan(found)
        assert (repairs, len(left)) == ([], 1)
        await plant(live, decode(stood.encoded).text or "")


async def test_a_repair_brings_a_planted_change_to_readers() -> None:
    """What was changed in the store is mended by an event; the new version says that the text was replaced."""
    log, live = MemoryLog(), MemoryStore()
    async with pipeline(log, live, cached=False) as one:
        await one.send(piece("The ", 0), piece("cat", 4, textClosed=True))
        await one.settled()
        await plant(live, "The cap")
        found = await compared(log, live)
        assert found.by_kind() == {"different": 1}
        repairs, left = plan(found)
        assert left == []
        await log.append(EVENTS, repairs)
        await one.settled()
        record = await one.prediction()
        assert (record.text, record.version, record.text_epoch) == ("The cat", 3, 3)
        assert decode((await one.changes())[-1].value).text_epoch == 3
        found = await compared(log, live)
        assert found.differences == []


async def test_a_rebuild_makes_the_same_bytes_with_parts() -> None:
    """A rebuild holds nothing back, uploads nothing, and names the same parts."""
    log, live, scratch = MemoryLog(), MemoryStore(), MemoryStore()
    async with pipeline(log, live) as one:
        for number in range(30):
            await one.send(piece("猫" * 1000, 3000 * number))
        await one.send({"status": "succeeded", "text": "猫" * 30_000 + "!"})
        await one.settled()
    await rebuilt(log, scratch)
    assert await everything(scratch) == await everything(live)
    assert len(decode((await live.load(["p1"]))["p1"].encoded).text_parts) == 2
