"""Whether a comparison and a repair can be trusted, whatever produced the log."""

import json
import random
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from tests.support.streams.pipeline import Pipeline, pipeline
from tidings.cli.support.comparison import plan
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Write
from tidings.streams.log.headers import PROVIDER_HEADER
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, NewRecord, StoredRecord
from tidings.streams.log.read_until_end import read_by_time, read_until_end
from tidings.streams.processing.crash_journal import CRASH
from tidings.streams.processing.dead_letters import dead_letter
from tidings.streams.processing.processor import GROUP
from tidings.streams.providers.protocol import Provider
from tidings.streams.replay.judgement import ANYBODY, Letters, read_letters
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.replay.verify import Verification, verify
from tidings.streams.rules.event import Event
from tidings.streams.rules.reducer import StorePolicy

PARTITIONS = 4
STEPS = (
    {"status": "starting"},
    {"status": "processing", "progress": 0.5},
    {"status": "processing", "logs": "a"},
    {"status": "processing", "tags": ["t"]},
    {"status": "succeeded", "output": "x"},
    {"status": "failed", "error": "y"},
    {"status": "canceled"},
    {"type": "delete"},
    {"type": "create", "owner": "o"},
    {"nonsense": 1},
)


async def compared(
    log: MemoryLog, live: MemoryStore, *, providers: Mapping[str, Provider] | None = None
) -> Verification:
    """As the command compares."""
    scratch = MemoryStore()
    policy = StorePolicy(await log.identity())
    rebuild = Rebuild(log, scratch, providers or {}, policy, letters=await read_letters(log))
    await rebuild.run(await span(log))
    return await verify(rebuild, scratch, live, log, group=GROUP)


def partition_of(number: int, style: str, grown: bool, chance: random.Random) -> int | None:
    """Where a producer puts a record: one partition a key, another one, any, or more since there are more."""
    if style == "any":
        return chance.randrange(PARTITIONS)
    count = PARTITIONS if grown else PARTITIONS - 1
    return (number if style == "modulo" else number * 7 + 1) % count


async def some_events(log: MemoryLog, seed: int) -> None:
    """A few dozen events of a few predictions, from several producers; some come twice."""
    chance = random.Random(seed)
    styles = chance.choice([["modulo"], ["modulo", "other"], ["any"]])
    many = chance.randint(20, 60)
    for index in range(many):
        number = chance.randrange(5)
        where = partition_of(number, chance.choice(styles), index > many // 2, chance)
        value = json.dumps(chance.choice(STEPS)).encode()
        record = NewRecord(b"p%d" % number, value, (), where)
        await log.append(EVENTS, [record] * chance.choice([1, 1, 1, 2]))


async def statuses(store: MemoryStore) -> dict[str, Status | None]:
    loaded = await store.load([f"p{number}" for number in range(5)])
    return {one: stored.status for one, stored in loaded.items()}


async def mended(running: Pipeline, found: Verification) -> None:
    """Let the processor apply what a repair appends."""
    repairs, _ = plan(found)
    if repairs:
        await running.log.append(EVENTS, repairs)
    await running.settled()


@pytest.mark.parametrize("seed", range(40))
async def test_a_healthy_run_verifies_and_repair_changes_no_end(seed: int) -> None:
    """Whatever partitions, partitioners and repeats: no faults after a healthy run, twice the same, and nothing ends anew."""
    log, live = MemoryLog(partitions=PARTITIONS), MemoryStore()
    async with pipeline(log, live) as running:
        await some_events(log, seed)
        await running.settled()
        found = await compared(log, live)
        assert found.faults == []
        assert (await compared(log, live)).by_kind() == found.by_kind()
        before = await statuses(live)
        await mended(running, found)
        assert await statuses(live) == before


@pytest.mark.parametrize("seed", range(30))
async def test_repair_is_idempotent_and_leaves_no_end(seed: int) -> None:
    """Of records that were spoiled what can be mended is; a second repair has nothing to do; no end is taken back."""
    log, live = MemoryLog(partitions=PARTITIONS), MemoryStore()
    chance = random.Random(seed)
    async with pipeline(log, live, cached=False) as running:
        await some_events(log, seed)
        await running.settled()
        for stored in (await live.load([f"p{number}" for number in range(5)])).values():
            record = stored.standing()
            if isinstance(record, Prediction) and chance.random() < 0.6:
                status = chance.choice([record.status, *Status])
                changes = {"prompt": "spoiled", "status": status, "version": record.version + 1}
                spoiled = replace(record, **changes)
                await live.write([Write(spoiled, encode(spoiled), record.version)])
        before = await statuses(live)
        found = await compared(log, live)
        _, refused = plan(found)
        await mended(running, found)
        after = await statuses(live)
        for one, status in before.items():
            assert status is None or not status.terminal or after[one] in {status, None}
        again = await compared(log, live)
        assert {d.prediction_id for d in again.faults} == {d.prediction_id for d in refused}
        assert plan(again)[0] == []


async def test_what_lies_in_several_partitions_is_listed_apart() -> None:
    """The live record's partitions count as well as the rebuilt one's, and nothing is mended because of them."""
    log, live = MemoryLog(partitions=2), MemoryStore()
    async with pipeline(log, live, cached=False) as running:
        await log.append(EVENTS, [NewRecord(b"p", b'{"status":"processing"}', (), 0)])
        await running.settled()
        await log.append(EVENTS, [NewRecord(b"p", b'{"status":"succeeded"}', (), 1)])
        await running.settled()
        standing = (await live.load(["p"]))["p"].standing()
        assert isinstance(standing, Prediction)
        spoiled = replace(standing, prompt="x", version=9)
        await live.write([Write(spoiled, encode(spoiled), standing.version)])
        found = await compared(log, live)
        assert [(d.prediction_id, d.kind) for d in found.differences] == [("p", "scattered")]
        assert found.undecided
        assert plan(found) == ([], [])


class Known:
    """A provider of somebody's own."""

    def translate(self, webhook: object) -> Event:
        return Event(prediction_id="p", status=Status.SUCCEEDED)


async def test_a_shell_without_a_providers_settings_judges_nothing() -> None:
    """What only an unknown provider said is no ground to call a good prediction extra, or to change it."""
    log, live = MemoryLog(), MemoryStore()
    known: dict[str, Provider] = {"own": Known()}  # type: ignore[dict-item] # it only translates
    webhook = NewRecord(b"p", b"{}", [(PROVIDER_HEADER, b"own")])
    async with pipeline(log, live, providers=known) as running:
        await log.append(EVENTS, [webhook])
        await running.settled()
        assert (await compared(log, live, providers=known)).differences == []
        found = await compared(log, live)
        assert [(d.prediction_id, d.kind) for d in found.differences] == [("p", "unjudged")]
        assert found.undecided
        assert "own" in found.unjudged["p"]
        assert plan(found) == ([], [])
        # Without a key it may have been about anybody.
        await log.append(EVENTS, [NewRecord(None, b"{}", [(PROVIDER_HEADER, b"own")])])
        await running.settled()
        assert ANYBODY in (await compared(log, live)).unjudged


async def test_what_the_processor_did_not_know_either_is_judged() -> None:
    """A webhook that became a dead letter as it came changed nothing, there and here."""
    log, live = MemoryLog(), MemoryStore()
    async with pipeline(log, live) as running:
        await log.append(EVENTS, [NewRecord(b"p", b"{}", [(PROVIDER_HEADER, b"own")])])
        await running.settled()
        found = await compared(log, live)
        assert (found.differences, found.undecided) == ([], False)


async def test_a_letter_from_before_the_topic_was_recreated_leaves_nothing_out() -> None:
    """The dead letters outlive a recreated topic: another record at the same offset is not the one set aside."""
    log, live = MemoryLog(), MemoryStore()
    async with pipeline(log, live) as running:
        await running.send({"status": "processing"}, key="p")
        await running.settled()
        [record] = [one async for batch in read_until_end(log, EVENTS) for one in batch]
        assert isinstance(record, StoredRecord)
        older = replace(record, timestamp=record.timestamp - 1000)
        await log.append(DEAD_LETTERS, [dead_letter(older, CRASH, "three unclean ends")])
        found = await compared(log, live)
    assert (found.differences, found.compared, found.equal) == ([], 1, 1)


async def test_what_was_set_aside_for_a_crash_is_left_out() -> None:
    """A record that was set aside unread is left out by a rebuild too; a letter that cannot be read leaves doubt."""
    log, live = MemoryLog(), MemoryStore()
    async with pipeline(log, live) as running:
        await running.send({"status": "processing"}, key="p")
        await running.settled()
    await log.append(EVENTS, [NewRecord(b"p", b'{"status":"succeeded"}')])
    records = [record async for batch in read_until_end(log, EVENTS) for record in batch]
    await log.append(DEAD_LETTERS, [dead_letter(records[1], CRASH, "three unclean ends")])
    scratch = MemoryStore()
    letters = await read_letters(log)
    assert letters.crashed == {(0, 1, records[1].timestamp)}
    rebuild = Rebuild(log, scratch, {}, StorePolicy(await log.identity()), letters=letters)
    await rebuild.run(await span(log))
    assert rebuild.progress.crashed == 1
    assert (await scratch.load(["p"]))["p"].status is Status.PROCESSING
    assert (await compared(log, live)).differences == []

    await log.append(DEAD_LETTERS, [NewRecord(b"p", b"what is this")])
    found = await compared(log, live)
    assert found.undecided
    assert "cannot be read" in found.unjudged["p"]
    assert found.faults == []
    assert Letters() == Letters(frozenset(), frozenset(), {})


async def test_partitions_are_merged_by_time() -> None:
    """A rebuild reads events of several partitions about as they came, and within each in the log's order."""
    log = MemoryLog(partitions=3)
    order = []
    for index in range(60):
        partition = random.Random(index).randrange(3)
        topic = log._topic(EVENTS)
        topic.append(NewRecord(b"p", b"%d" % index, (), partition), 1_000 + index)
        order.append(b"%d" % index)
    ends = {number: end for number, (_, end) in (await log.bounds(EVENTS)).items()}
    merged = [one.value async for batch in read_by_time(log, EVENTS, {}, ends) for one in batch]
    assert merged == order
