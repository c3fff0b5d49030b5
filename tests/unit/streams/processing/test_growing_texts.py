"""Growing texts: pieces between written versions, whose offsets are held back until their record stands."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.support.conditions import eventually
from tests.support.streams.pipeline import Pipeline, codes, pipeline, read
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Prediction, decode
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.store import Outcome, Write
from tidings.streams.changes.text_codec import Piece, parse_piece
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, TEXT, NewRecord
from tidings.streams.processing import outages
from tidings.streams.processing.processor import GROUP
from tidings.streams.processing.text_flush import TextFlush
from tidings.streams.rules.large_fields import path


class CountingStore(MemoryStore):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[int] = []

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does."""
        self.versions += [write.record.version for write in writes]
        return await super().write(writes)


def piece(text: str, offset: int | None = None, **more: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"type": "append", "text": text, **more}
    return event if offset is None else {**event, "offset": offset}


async def pieces(one: Pipeline) -> list[Piece]:
    found = [parse_piece(record) for record in await read(one.log, TEXT)]
    return [each for each in found if each is not None]


async def shown(one: Pipeline) -> str:
    """What a reader has that follows changes and pieces: every piece must go on from what it has."""
    changes = [c for c in await one.changes() if c.prediction_id == "p1"]
    versions = {c.version: decode(c.value) for c in changes}
    text = b""
    for each in await pieces(one):
        if each.refusal is None:
            base = (versions[each.base].text or "").encode()
            text = base if len(base) > len(text) else text
            assert len(text) == each.before
            text += each.text
    newest = versions[max(versions)]
    return max(text, (newest.text or "").encode(), key=len).decode()


async def grown(one: Pipeline, text: str) -> None:
    """Wait until a reader has this text."""

    async def there() -> bool:
        return await shown(one) == text

    await eventually(there, 10)


async def test_growth_is_announced_in_pieces_and_written_later() -> None:
    """Pieces are announced at once on the version that stands; the record is written later, with all of them."""
    log, store, now = MemoryLog(), CountingStore(), [0.0]
    async with pipeline(log, store) as one:
        one.processor.texts._clock = lambda: now[0]
        await one.send(piece("The ", 0))
        await one.settled()
        words = ["quick ", "brown ", "fox "]
        at = 4
        for word in words:
            await one.send(piece(word, at))
            at += len(word)
            await grown(one, "The quick brown fox "[:at])
        assert store.versions == [1]
        assert (await log.committed(EVENTS, GROUP))[0] == 1
        assert one.processor.positions == {0: 4}
        assert [(p.base, p.before, p.text) for p in await pieces(one)] == [
            (1, 4, b"quick "),
            (1, 10, b"brown "),
            (1, 16, b"fox "),
        ]
        now[0] = 0.6  # it has grown by more than an eighth
        await one.settled()
        record = await one.prediction()
        assert (record.text, record.version) == ("The quick brown fox ", 4)
        assert store.versions == [1, 4]
        last = (await one.changes())[-1]
        assert (last.version, last.grown_from) == (4, 1)


async def test_little_growth_is_written_after_two_seconds() -> None:
    """A text that has grown by less than an eighth since it was written waits for two seconds, and no longer."""
    log, store, now = MemoryLog(), CountingStore(), [0.0]
    async with pipeline(log, store) as one:
        one.processor.texts._clock = lambda: now[0]
        await one.send(piece("x" * 100, 0))
        await one.settled()
        await one.send(piece("y" * 12, 100))
        await grown(one, "x" * 100 + "y" * 12)
        now[0] = 1.9
        await one.send(piece("z", 112))
        await eventually(lambda: one.processor.positions == {0: 3}, 10)
        assert store.versions == [1, 3]  # by now it has grown by an eighth
        await one.send(piece("z", 113))
        await eventually(lambda: one.processor.positions == {0: 4}, 10)
        now[0] = 3.8
        await one.send(piece("z", 114))
        await eventually(lambda: one.processor.positions == {0: 5}, 10)
        assert store.versions == [1, 3]
        now[0] = 3.9
        await one.settled()
        assert store.versions == [1, 3, 5]


async def test_anything_else_is_written_at_once() -> None:
    """An end, a status or a tag brings what was held back with it, and the change says that it is no mere growth."""
    log, store = MemoryLog(), CountingStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        await one.send(piece("The ", 0))
        await one.settled()
        await one.send(piece("quick", 4))
        await grown(one, "The quick")
        await one.send({"status": "succeeded"})
        await one.settled()
        record = await one.prediction()
        assert (record.text, record.version, record.status) == ("The quick", 3, "succeeded")
        assert store.versions == [1, 3]
        assert [change.grown_from for change in await one.changes()] == [None, None]


async def test_what_is_held_back_is_written_at_a_stop() -> None:
    """A processor that ends in order leaves nothing to be read again."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        await one.send(piece("The ", 0))
        await one.settled()
        await one.send(piece("quick", 4))
        await grown(one, "The quick")
    assert (await log.committed(EVENTS, GROUP))[0] == 2
    stored = (await store.load(["p1"]))["p1"]
    assert (stored.version, decode(stored.encoded).text) == (2, "The quick")


async def test_another_writer_was_faster() -> None:
    """Where the store has another version than expected, everything since is judged again by what stands."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        await one.send(piece("The ", 0))
        await one.settled()
        await one.send(piece("quick", 4))
        await grown(one, "The quick")
        stored = (await store.load(["p1"]))["p1"]
        record = decode(stored.encoded)
        assert isinstance(record, Prediction)
        other = msgspec.structs.replace(record, version=5, tags=("other",))
        assert await store.write([Write(other, msgspec.json.encode(other), stored.version)]) == [
            None
        ]
        await one.send(piece(" fox", 9, tags=["x"]))
        await one.settled()
        found = decode((await store.load(["p1"]))["p1"].encoded)
        assert (found.text, found.version, found.tags) == ("The quick fox", 7, ("other", "x"))


async def test_a_new_assignment_drops_what_is_held_back() -> None:
    """What was held back comes again to whoever has the partitions now, and is neither lost nor doubled."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        await one.send(piece("The ", 0))
        await one.settled()
        await one.send(piece("quick", 4), piece(" brown", 9))
        await grown(one, "The quick brown")
        member = log.consume(EVENTS, GROUP)
        await member.close()
        await one.send(piece(" fox", 15, tags=["x"]))
        await one.settled()
        record = await one.prediction()
        assert (record.text, record.version) == ("The quick brown fox", 4)


async def test_what_was_fetched_before_partitions_were_dealt_anew_is_not_begun() -> None:
    """Dealt anew while batches end: records of before come again behind those that were held back, and leave no gap."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        await one.send(piece("The ", 0))
        await one.settled()
        await one.send(piece("quick", 4), piece(" brown", 9))
        await grown(one, "The quick brown")
        loop, drain = one.processor._loop, one.processor._drain
        assert loop is not None

        async def dealt_anew() -> None:
            one.processor._drain = drain  # type: ignore[method-assign]
            await drain()
            await log.consume(EVENTS, GROUP).close()

        one.processor._drain = dealt_anew  # type: ignore[method-assign]
        loop.went_back = True  # so that the next fetch drains first
        await one.send(piece(" fox", 15, tags=["x"]))
        await one.settled()
        record = await one.prediction()
        assert (record.text, record.version) == ("The quick brown fox", 4)
        assert await one.letters() == []


async def test_a_fetch_that_goes_back_keeps_what_is_held_back() -> None:
    """Without a new assignment the events of what is held back do not come again, so it is not dropped."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        await one.send(piece("The ", 0))
        await one.settled()
        await one.send(piece("quick", 4))
        await grown(one, "The quick")
        assert one.processor._loop is not None
        one.processor._loop.went_back = True
        await one.send(piece(" fox", 9, tags=["x"]))
        await one.settled()
        record = await one.prediction()
        assert (record.text, record.version) == ("The quick fox", 3)
        assert await one.letters() == []


async def test_a_writer_is_told_what_was_refused() -> None:
    """Refused pieces are told with their codes, and one gap of 10,000 pieces is one dead letter."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        await one.send(piece("The ", 0), piece("slow", 0), piece("The", 0), piece("x", -1))
        for start in range(0, 10_000, 1000):
            await one.send(*[piece("y", 100 + start + n) for n in range(1000)])
        await one.send({"status": "failed", "error": "x"})
        await one.send(piece("z", 4), piece("z", 5))
        await one.settled()
        told = [each.refusal for each in await pieces(one) if each.refusal]
        assert told[:2] == ["text-mismatch", "stale"]
        assert told[-2:] == ["text-late", "text-late"]
        assert told.count("text-gap") == 10_000
        assert sorted(codes(await one.letters())) == ["text-gap", "text-mismatch", "wrong-type"]
        record = await one.prediction()
        assert (record.text, record.text_missing, record.status) == ("The ", 10_100, "failed")


async def test_parts_stand_before_their_record() -> None:
    """A large text lies in object storage in parts of 32 KiB, and the record names them."""
    log, store, objects = MemoryLog(), MemoryStore(), ObjectStorage("memory://")
    text = "".join(f"{number:07d} " for number in range(20_000))
    async with pipeline(log, store, objects=objects) as one:
        size = 1000
        for at in range(0, len(text), size):
            await one.send(piece(text[at : at + size], at))
        await one.send({"status": "succeeded"})
        await one.settled()
        record = await one.prediction()
        assert record.text_length == len(text)
        assert record.text is None
        found = [await objects.get(path("p1", part.hash)) for part in record.text_parts]
        assert b"".join(part or b"" for part in found).decode() + str(record.text_tail) == text
        assert len(record.text_parts) == 4


async def test_the_oldest_is_written_first_beyond_the_budget() -> None:
    """What is held back has a budget of bytes."""
    log, store = MemoryLog(), CountingStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        one.processor.texts._budget = 20_000
        for number in range(3):
            await one.send(piece("a", 0), key=f"p{number}")
            await one.settled()
        for number in range(3):
            await one.send(piece("b" * 9000, 1), key=f"p{number}")

        async def written() -> bool:
            stored = await store.load(["p0", "p1", "p2"])
            return [stored[f"p{n}"].version for n in range(3)] == [2, 1, 1]

        await eventually(written, 10)


async def test_nothing_is_held_back_with_a_flush_of_zero() -> None:
    """Each piece is a version of its own if the setting says so."""
    log, store = MemoryLog(), CountingStore()
    async with pipeline(log, store) as one:
        one.processor.texts = TextFlush(0)
        await one.send(piece("x" * 100, 0))
        await one.settled()
        for at, word in enumerate("abc"):
            await one.send(piece(word, 100 + at))
            await one.settled()
        assert store.versions == [1, 2, 3, 4]
        assert await pieces(one) == []


async def test_a_piece_of_two_megabytes_stops_nothing() -> None:
    """It is one dead letter, and the next prediction goes on."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        await one.send(piece("a" * 2_000_000, 0))
        await log.append(EVENTS, [NewRecord(b"p1", b'{"type":"append","text":"\xff"}')])
        await one.send(piece("b", 0), key="p2")
        await one.settled()
        assert sorted(codes(await one.letters())) == ["encoding", "text-too-long"]
        assert (await one.prediction("p2")).text == "b"


async def test_positions_and_commits_are_two_numbers() -> None:
    """What is handled is done for whoever looks at the lag, while its offset is not committed yet."""
    log, store = MemoryLog(), MemoryStore()
    async with pipeline(log, store) as one:
        one.processor.texts._flush = one.processor.texts._latest = 600.0
        await one.send(piece("a", 0))
        await one.settled()
        await one.send(piece("b", 1))
        await one.send({"status": "processing"}, key="p2")
        await eventually(lambda: one.processor.positions == {0: 3}, 10)
        await asyncio.sleep(0)
        assert (await log.committed(EVENTS, GROUP))[0] == 1


class StuckStore(CountingStore):
    """Takes no write while it is stuck."""

    stuck = False
    tried = 0

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does, or not."""
        self.tried += 1
        if self.stuck:
            raise StoreUnavailable("away for a moment")
        return await super().write(writes)


async def test_nothing_is_announced_while_writes_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pieces wait behind a write that the store does not take, and come once it does."""
    monkeypatch.setattr(outages, "BACKOFF", Backoff.doubling(0.01, 0.02))
    log, store = MemoryLog(), StuckStore()
    async with pipeline(log, store) as one:
        await one.send(piece("The ", 0))
        await one.settled()
        store.stuck = True
        await one.send({"status": "processing"}, key="p2")
        await eventually(lambda: one.processor.obstacle is not None, 10)
        await one.send(piece("quick", 4))
        tried = store.tried
        await eventually(lambda: store.tried > tried + 5, 10)
        assert await pieces(one) == []
        store.stuck = False
        await grown(one, "The quick")
