"""Fields that are too large for a record."""

import asyncio
import hashlib
import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from tests.support.conditions import eventually
from tests.support.streams.events import event, record
from tests.support.streams.pipeline import Pipeline, codes, pipeline
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import ABSENT, Blob, Prediction
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, Log, NewRecord
from tidings.streams.processing.processor import Processor
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.rules import large_fields as blobs
from tidings.streams.rules.large_fields import FIELD_MAX, reference, settle, whole
from tidings.streams.rules.reducer import StorePolicy

LARGE = "x" * (FIELD_MAX + 1)


def blob_of(raw: Raw) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(raw)
    return found


@pytest.mark.parametrize(
    ("value", "length", "more"),
    [
        (LARGE, len(LARGE), {}),
        (["ab"] * 10_000, 10_000, {}),
        ({"text": LARGE, "b": 1}, 2, {"kind": "object"}),
        ("ü" * FIELD_MAX, FIELD_MAX, {}),
    ],
)
def test_a_large_field_is_replaced_by_its_hash(
    value: Any, length: int, more: dict[str, str]
) -> None:
    """What stands in its place tells hash, bytes, and items or characters; the content is the JSON as it came."""
    what = event("succeeded", output=value)
    content = bytes(what.output)
    name = "sha256-" + hashlib.sha256(content).hexdigest()
    assert settle(what) == {name: content}
    assert blob_of(what.output) == {"$blob": name, "bytes": len(content), "length": length, **more}
    assert reference(what.output) == Blob(name, len(content), length, more.get("kind", ""))  # type: ignore[arg-type]


def test_a_field_at_the_limit_stays() -> None:
    """32 KiB of JSON are not too much, one byte more is."""
    fits, over = "x" * (FIELD_MAX - 2), "x" * (FIELD_MAX - 1)
    small, large = event(output=fits), event(output=over)
    assert (settle(small), len(settle(large))) == ({}, 1)
    assert reference(small.output) is None


def test_strings_go_as_well() -> None:
    """A long prompt and a long error are replaced, and their contents are JSON strings."""
    what = event("failed", prompt=LARGE, error="ü" * FIELD_MAX)
    contents = settle(what)
    assert isinstance(what.prompt, Blob)
    assert isinstance(what.error, Blob)
    assert json.loads(contents[what.prompt.hash]) == LARGE
    assert what.error.length == FIELD_MAX
    assert settle(event("failed", error="x" * FIELD_MAX)) == {}


def test_the_same_event_gives_the_same_bytes() -> None:
    """Made again, the record has the same bytes."""
    made = []
    for _ in range(2):
        what = event("succeeded", output=[LARGE], payload={"a": LARGE})
        settle(what)
        made.append(msgspec.json.encode(record(what)))
    assert made[0] == made[1]


def partial(count: int) -> Any:
    what = event("processing", output=["item"] * count)
    settle(what)
    return what


@pytest.mark.parametrize(
    ("first", "second"), [(20_000, 5), (5, 20_000), (20_000, 10_000), (10_000, 20_000)]
)
def test_the_longer_partial_output_stays(first: int, second: int) -> None:
    """Of two partial lists the longer one stands, wherever each is kept, in whatever order they come."""
    longest = partial(max(first, second)).output
    assert record(partial(first), partial(second)).output == longest


def test_of_two_large_objects_the_later_stands() -> None:
    """Objects have no length to be compared by."""
    first, second = (
        event("processing", output={"a": LARGE, "b": 1}),
        event("processing", output={"a": LARGE + "y"}),
    )
    settle(first), settle(second)
    assert record(first, second).output == second.output


def test_a_long_log_keeps_its_tail() -> None:
    """Logs are bounded by themselves: the record keeps the end, and counts the whole."""
    what = event("processing", logs="a" * 100_000 + "end")
    assert settle(what) == {}
    stands = record(what)
    assert stands.logs is not None
    assert stands.logs.endswith("end")
    assert (len(stands.logs), stands.logs_length) == (32_768, 100_003)


def test_a_long_list_of_files_still_shows_the_first() -> None:
    """Where the list of files is too large for the record, its picture is the list's first all the same."""
    assets = [{"url": f"/assets/{i}", "path": f"x/{i}"} for i in range(2000)]
    archived = event(type="archive", assets=assets)
    settle(archived)
    stands = record(event("succeeded", output="https://x/1"), archived)
    assert reference(stands.assets) is not None
    assert (stands.image_url, stands.image_path) == ("/assets/0", "x/0")


def test_what_a_field_says_of_itself_is_not_believed() -> None:
    """A field that only looks like a reference is none."""
    for text in (
        '{"$blob":"x","bytes":1,"length":1}',
        '{"$blob":"sha256-../../x","bytes":1,"length":1}',
        '{"$blob":1}',
    ):
        assert reference(Raw(text.encode())) is None
    assert reference(ABSENT) is None


def test_one_predictions_contents_lie_apart_from_anothers() -> None:
    """The same content has another path for another prediction."""
    assert blobs.path("p1", "sha256-00") != blobs.path("p2", "sha256-00")


# ---- in the processor ----


class Unsteady(ObjectStorage):
    """Object storage in memory that fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__("memory://")
        self.failures = 0
        self.puts: list[str] = []

    async def put(self, path: str, data: bytes, headers: Any = None) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the bucket is away")
        self.puts.append(path)
        await super().put(path, data, headers)


async def content(objects: ObjectStorage, raw: Raw, prediction_id: str = "p1") -> bytes | None:
    blob = reference(raw)
    assert blob is not None
    return await objects.get(blobs.path(prediction_id, blob.hash))


async def rebuilt(pipe: Pipeline, log: Log) -> Prediction:
    scratch = MemoryStore()
    await Rebuild(log, scratch, {}, StorePolicy(await log.identity())).run(await span(log))
    stored = await scratch.get("p1")
    assert stored is not None
    live = await pipe.store.get("p1")
    assert live is not None
    assert stored.encoded == live.encoded
    standing = stored.standing()
    assert isinstance(standing, Prediction)
    return standing


async def test_contents_are_put_before_the_record_stands() -> None:
    """A field of 5 MB passes; its content can be had, a rebuild puts nothing and makes the same bytes."""
    log, objects = MemoryLog(), Unsteady()
    async with pipeline(log, MemoryStore(), objects=objects) as pipe:
        output = ["y" * 5_000_000]
        await pipe.send({"status": "succeeded", "output": output, "payload": {"n": 1}})
        await pipe.settled()
        stands = await pipe.prediction()
        assert await content(objects, stands.output) == msgspec.json.encode(output)
        assert bytes(stands.payload) == b'{"n":1}'
        assert len(objects.puts) == 2  # and one that says whose it is
        await rebuilt(pipe, log)
        assert len(objects.puts) == 2
        assert codes(await pipe.letters()) == []


async def test_an_outage_of_the_object_storage_is_waited_out() -> None:
    """While contents cannot be put nothing that refers to them stands; afterwards everything is there."""
    log, objects = MemoryLog(), Unsteady()
    objects.failures = 3
    async with pipeline(log, MemoryStore(), objects=objects) as pipe:
        await pipe.send({"status": "processing", "payload": {"image": LARGE}})
        await pipe.settled()
        stands = await pipe.prediction()
        assert pipe.processor.statistics.pauses == 1
        assert await content(objects, stands.payload) is not None


class Held(ObjectStorage):
    """Object storage in memory where every put waits until it is let go."""

    def __init__(self) -> None:
        super().__init__("memory://")
        self.free = asyncio.Semaphore(0)
        self.under_way = 0
        self.most = 0
        self.done: list[str] = []

    async def put(self, path: str, data: bytes, headers: Any = None) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.free.acquire()
        await super().put(path, data, headers)
        self.under_way -= 1
        self.done.append(path)


async def large_batch(count: int = 40) -> tuple[MemoryLog, list[str]]:
    """A log in which so many predictions wait, each with a field of its own that is too large."""
    log, ids = MemoryLog(), [f"p{number}" for number in range(count)]
    value = msgspec.json.encode({"status": "processing", "payload": {"image": LARGE}})
    await log.append(EVENTS, [NewRecord(prediction_id.encode(), value) for prediction_id in ids])
    return log, ids


async def test_a_batch_of_large_fields_is_put_several_at_once() -> None:
    """16 records' contents are put at a time, each after its note, all before any record stands; each is a sign of life."""
    (log, ids), store, objects = await large_batch(), MemoryStore(), Held()
    async with pipeline(log, store, objects=objects) as pipe:
        statistics = pipe.processor.statistics
        await eventually(lambda: objects.under_way == 16)
        before = statistics.last_alive
        objects.free.release()
        await eventually(lambda: statistics.last_alive > before)
        for _ in range(2 * len(ids) - 2):
            objects.free.release()
        await eventually(lambda: len(objects.done) == 2 * len(ids) - 1)
        assert await store.load(ids) == {}
        objects.free.release()
        await pipe.settled()
        for prediction_id in ids:
            stands = await pipe.prediction(prediction_id)
            assert await content(objects, stands.payload, prediction_id) is not None
            note, put = [
                path for path in objects.done if path.startswith(blobs.folder(prediction_id))
            ]
            assert (note, put != note) == (blobs.note(prediction_id), True)
    assert objects.most == 16


async def test_an_outage_in_the_middle_of_a_batch_of_large_fields() -> None:
    """What failed is put again, whichever it was; a processor that is stopped meanwhile ends without a word."""
    (log, ids), objects = await large_batch(), Unsteady()
    objects.failures = 1_000_000
    async with pipeline(log, MemoryStore(), objects=objects) as pipe:
        await eventually(lambda: pipe.processor.obstacle)
    objects.failures = 30
    async with pipeline(log, MemoryStore(), objects=objects) as pipe:
        await pipe.settled()
        assert pipe.processor.statistics.pauses > 0
        for prediction_id in ids:
            stands = await pipe.prediction(prediction_id)
            assert await content(objects, stands.payload, prediction_id) is not None


class Lost(ObjectStorage):
    """Object storage that will never take anything."""

    async def put(self, path: str, data: bytes, headers: Any = None) -> None:
        raise StoreMisconfigured("there is no such bucket; mend TIDINGS_ASSETS")


async def test_contents_that_can_never_be_put_end_the_processor() -> None:
    """The one error says what is wrong, however many puts it met."""
    log, _ = await large_batch()
    policy = StorePolicy(await log.identity())
    running = Processor(log, MemoryStore(), {}, policy, objects=Lost("memory://"))
    with pytest.raises(StoreMisconfigured, match="no such bucket"):
        await asyncio.wait_for(running.run(), 20)


async def test_what_every_report_repeats_is_put_once() -> None:
    """Providers send the whole input with every webhook: its content is put for the first alone."""
    log, objects = MemoryLog(), Unsteady()
    async with pipeline(log, MemoryStore(), objects=objects) as pipe:
        for number in range(3):
            await pipe.send(
                {"status": "processing", "payload": {"image": LARGE}, "progress": number / 10}
            )
            await pipe.settled()
        assert len(objects.puts) == 2


async def test_what_is_rejected_is_not_put() -> None:
    """The content of an event that changes nothing goes nowhere."""
    log, objects = MemoryLog(), Unsteady()
    async with pipeline(log, MemoryStore(), objects=objects) as pipe:
        await pipe.send({"status": "succeeded"}, {"status": "failed", "error": LARGE})
        await pipe.settled()
        assert codes(await pipe.letters()) == ["contradiction"]
        assert objects.puts == []


async def test_a_record_is_made_whole_again() -> None:
    """Whoever needs payload and prompt themselves gets them."""
    log, objects = MemoryLog(), Unsteady()
    async with pipeline(log, MemoryStore(), objects=objects) as pipe:
        await pipe.send({"payload": {"image": LARGE}, "prompt": LARGE})
        await pipe.settled()
        stands = await pipe.prediction()
        full = await whole(objects.get, objects.shown, stands)
        assert full.prompt == LARGE
        assert msgspec.json.decode(full.payload) == {"image": LARGE}
        await objects.delete(objects.puts)
        with pytest.raises(StoreUnavailable):
            await whole(objects.get, objects.shown, stands)
