"""Replay: rebuild a store from the log, and compare a live store with what the log says.

The log is the truth. A replay announces nothing and dead-letters nothing; it counts.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from storage.prediction import Prediction
from storage.store import Conflict, PredictionStore, Query, Refused, Stored, hidden
from streams.batch import Batch, Entry
from streams.fold import Expiry, Rules
from streams.log import EVENTS, Log, LogError, Record, Since
from streams.providers.provider import Provider

BATCH = 2000
"""Records folded into one write."""

OVERLAP = 10_000
"""Offsets read again when a replay is resumed: more than one batch spans, so that a batch of which only a part was
written is read whole. What was applied already is a duplicate."""


class StoreInUse(Exception):
    """The target of a rebuild holds records already."""


class Progress(Struct, gc=False):
    """Where a replay stands; one object, changed in place, for a bar to read."""

    total: int = 0
    """Records to read, as far as is known."""
    read: int = 0
    applied: int = 0
    stale: int = 0
    rejected: int = 0
    poison: int = 0
    predictions: int = 0
    """Records written."""
    resumed: bool = False


class Span(Struct, frozen=True, gc=False):
    """What of the events topic is read: per partition the first offset, and the first one that is not read."""

    start: dict[int, int]
    end: dict[int, int]

    @property
    def total(self) -> int:
        """Offsets in it."""
        return sum(max(0, end - self.start.get(partition, 0)) for partition, end in self.end.items())


async def span(log: Log, since: Since = "beginning", until: int | None = None) -> Span:
    """The span from `since` to the log's end as of now, or to the first record later than `until` (ms)."""
    bounds = await log.bounds(EVENTS)
    end = {partition: last for partition, (_, last) in bounds.items()}
    if until is not None:
        at = await log.offsets_at(EVENTS, until)
        end = {partition: min(last, at.get(partition, last)) for partition, last in end.items()}
    if since == "beginning":
        start = {partition: first for partition, (first, _) in bounds.items()}
    elif since == "end":
        start = dict(end)
    else:
        start = {partition: max(first, since.get(partition, first)) for partition, (first, _) in bounds.items()}
    return Span(start, end)


class Rebuild:
    """Builds records from the log into a store that nobody else writes.

    Args:
        log: Where the events are.
        store: The target.
        providers: By name; what webhooks are translated by.
        rules: As of the log and the live store.
        expiry: When records are hidden and purged.
        only: This prediction alone.
        notice: Called after each batch.
    """

    def __init__(
        self,
        log: Log,
        store: PredictionStore,
        providers: Mapping[str, Provider],
        rules: Rules,
        *,
        expiry: Expiry | None = None,
        only: str | None = None,
        notice: Callable[[Progress], None] | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._providers = providers
        self._rules = rules
        self._expiry = expiry or Expiry()
        self._only = only
        self._notice = notice
        self._writing: asyncio.Task[None] | None = None
        self.progress = Progress()
        self.next: dict[int, int] = {}
        """Per partition the first offset not read yet."""

    async def require_empty(self) -> None:
        """Make sure that nothing is poured into a store in use; raises `StoreInUse`."""
        if await self._store.positions() or (await self._store.list(Query(limit=1))).items:
            raise StoreInUse(
                "the store holds records already: replay into an empty one (--into URL), compare with --verify, "
                "mend with --repair, or go on with an interrupted rebuild by --resume"
            )

    async def resume_point(self) -> dict[int, int]:
        """Where an interrupted rebuild of this store goes on."""
        written = await self._store.positions()
        return {partition: max(0, offset + 1 - OVERLAP) for partition, offset in written.items()}

    async def run(self, what: Span) -> Progress:
        """Read the span and write what it says."""
        self.next = dict(what.start)
        self.progress.total += what.total
        await self._read(what.end)
        return self.progress

    async def extend(self, end: Mapping[int, int]) -> None:
        """Read on from where `run` ended, to these offsets."""
        self.progress.total += sum(max(0, to - self.next.get(partition, 0)) for partition, to in end.items())
        await self._read(end)

    async def follow(self, stop: Callable[[], bool]) -> None:
        """Read on for ever, until `stop` says so at a moment when nothing is left to read."""
        async for records in self._log.follow(EVENTS, self.next):
            if records:
                self.progress.total += len(records)
                await self._apply(list(records))
                for record in records:
                    self.next[record.partition] = record.offset + 1
                continue
            await self._written()
            if stop():
                return

    async def _read(self, end: Mapping[int, int]) -> None:
        if self._reached(end):
            return
        pending: list[Record] = []
        async for records in self._log.follow(EVENTS, self.next):
            pending += [r for r in records if r.offset < end.get(r.partition, 0)]
            for record in records:
                if record.partition in end:  # of the others nothing is applied: they stay where they were
                    self.next[record.partition] = max(self.next.get(record.partition, 0), record.offset + 1)
            done = not records or self._reached(end)
            while len(pending) >= BATCH or (done and pending):
                await self._apply(pending[:BATCH])
                del pending[:BATCH]
            if done:
                await self._written()
                # What follows the end was fetched, but not applied.
                for partition, to in end.items():
                    self.next[partition] = to
                return

    def _reached(self, end: Mapping[int, int]) -> bool:
        return all(self.next.get(partition, 0) >= to for partition, to in end.items())

    async def _apply(self, records: list[Record]) -> None:
        """Fold a batch; its write goes on while the next one is read and translated (a store works beside us)."""
        batch = Batch(records, self._providers, self._only)
        await self._written()
        loaded = await self._store.load(list(batch.entries))
        batch.fold(loaded, self._rules)
        self._writing = asyncio.create_task(self._write(batch, len(records)))
        await asyncio.sleep(0)  # lets it begin

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _write(self, batch: Batch, count: int) -> None:
        changed = [entry for entry in batch.entries.values() if entry.changed]
        if changed:
            outcomes = await self._store.write([entry.write(self._expiry) for entry in changed])
            for entry, outcome in zip(changed, outcomes, strict=True):
                self._check(entry, outcome)
        progress = self.progress
        progress.read += count
        progress.poison += len(batch.poison)
        progress.predictions += len(changed)
        for entry in batch.entries.values():
            folded = entry.folded
            assert folded is not None
            progress.applied += folded.applied
            progress.stale += folded.stale
            progress.rejected += len(folded.rejected)
        if self._notice is not None:
            self._notice(progress)

    def _check(self, entry: Entry, outcome: Conflict | Refused | None) -> None:
        if isinstance(outcome, Conflict):
            raise StoreInUse(
                f"somebody else writes prediction {entry.events[0][0].prediction_id!r} in the target store; "
                "stop it, or replay into another store"
            )
        if isinstance(outcome, Refused):
            self.progress.rejected += len(entry.events)


# ---- verification ----

Kind = Literal["different", "missing", "extra", "behind", "truncated", "scattered"]
"""different: other bytes; missing: only the log knows it; extra: only the store has it; behind: its last events are not
processed yet; truncated: its first event is no longer in the log; scattered: its events lie in several partitions, where
arrival decides. The last three are listed apart and are no faults."""

FAULTS: frozenset[Kind] = frozenset({"different", "missing", "extra"})


class Difference(Struct, frozen=True, gc=False):
    """A prediction on which the live store and the log do not agree."""

    prediction_id: str
    kind: Kind
    live: Stored | None
    rebuilt: Stored | None


class Verification(Struct, gc=False):
    """What a comparison found."""

    compared: int = 0
    equal: int = 0
    hidden: int = 0
    """Left out: expired in the live store or in the rebuilt one."""
    differences: list[Difference] = []
    upto: dict[int, int] = {}
    """Per partition the last offset that the rebuild had read."""

    @property
    def faults(self) -> list[Difference]:
        """Those that mean that something is wrong."""
        return [difference for difference in self.differences if difference.kind in FAULTS]

    def by_kind(self) -> dict[str, int]:
        """How many of each kind."""
        counts: dict[str, int] = {}
        for difference in self.differences:
            counts[difference.kind] = counts.get(difference.kind, 0) + 1
        return counts


_ROUNDS = 10
"""How often a comparison runs after records that move meanwhile."""


async def verify(
    rebuild: Rebuild,
    scratch: PredictionStore,
    live: PredictionStore,
    log: Log,
    *,
    group: str,
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Verification:
    """Compare the live store with a finished rebuild, byte for byte.

    Args:
        rebuild: Has run to the log's end as of its start, into `scratch`.
        scratch: The rebuilt store.
        live: The store in use, without a cache in front.
        log: Read on where a live record has moved beyond what was rebuilt.
        group: The processor's group: what it has not committed yet may not be in the live store.
        clock: Milliseconds since the epoch, for what is hidden.
    """
    bounds = await log.bounds(EVENTS)
    first = {partition: start for partition, (start, _) in bounds.items()}
    seen: set[str] = set()
    result = Verification()
    suspects: dict[str, None] = {}
    cursor: str | None = None
    for store in (scratch, live):
        while True:
            page = await store.list(Query(limit=1000, cursor=cursor))
            ids = [_id(stored) for stored in page.items]
            fresh = [i for i in ids if i not in seen]
            seen.update(fresh)
            await _compare(fresh, scratch, live, result, suspects, clock())
            cursor = page.cursor
            if cursor is None:
                break
    await _follow_moved(rebuild, scratch, live, result, suspects, clock)
    committed = await log.committed(EVENTS, group)
    rebuilt, standing = await scratch.load(list(suspects)), await live.load(list(suspects))
    for prediction_id in suspects:
        mine, theirs = rebuilt.get(prediction_id), standing.get(prediction_id)
        kind = _kind(mine, theirs, first, committed)
        result.differences.append(Difference(prediction_id, kind, theirs, mine))
    result.upto = {partition: offset - 1 for partition, offset in rebuild.next.items()}
    return result


async def _compare(
    ids: list[str],
    scratch: PredictionStore,
    live: PredictionStore,
    result: Verification,
    suspects: dict[str, None],
    now: int,
) -> None:
    rebuilt, standing = await scratch.load(ids), await live.load(ids)
    for prediction_id in ids:
        mine, theirs = rebuilt.get(prediction_id), standing.get(prediction_id)
        result.compared += 1
        if _same(mine, theirs):
            result.equal += 1
        elif _expired(mine, now) or _expired(theirs, now):
            result.hidden += 1
        else:
            suspects[prediction_id] = None


def _same(mine: Stored | None, theirs: Stored | None) -> bool:
    return mine is not None and theirs is not None and mine.encoded == theirs.encoded


def _expired(stored: Stored | None, now: int) -> bool:
    return stored is not None and not stored.deleted and hidden(stored, now)


async def _follow_moved(
    rebuild: Rebuild,
    scratch: PredictionStore,
    live: PredictionStore,
    result: Verification,
    suspects: dict[str, None],
    clock: Callable[[], int],
) -> None:
    """Read on to the source of records that moved while the comparison ran, and compare those again."""
    for _ in range(_ROUNDS):
        ids = list(suspects)
        standing = await live.load(ids)
        beyond: dict[int, int] = {}
        for stored in standing.values():
            for partition, offset in _offsets(stored).items():
                if offset >= rebuild.next.get(partition, 0):
                    beyond[partition] = max(beyond.get(partition, 0), offset + 1)
        if not beyond:
            return
        await rebuild.extend(beyond)
        suspects.clear()
        result.compared -= len(ids)
        await _compare(ids, scratch, live, result, suspects, clock())


def _kind(mine: Stored | None, theirs: Stored | None, first: Mapping[int, int], committed: Mapping[int, int]) -> Kind:
    if theirs is not None and _begun_before(theirs, first):
        return "truncated"
    offsets = _offsets(mine) if mine is not None else {}
    if len(offsets) > 1:
        return "scattered"
    known = _offsets(theirs) if theirs is not None else {}
    if any(offset > known.get(p, -1) and offset >= committed.get(p, 0) for p, offset in offsets.items()):
        return "behind"
    if theirs is None:
        return "missing"
    return "extra" if mine is None else "different"


def _begun_before(stored: Stored, first: Mapping[int, int]) -> bool:
    standing = stored.standing()
    if not isinstance(standing, Prediction) or not standing.transitions:
        return any(offset < first.get(partition, 0) for partition, offset in _offsets(stored).items())
    position = standing.transitions[0].position
    if position is None:
        return False
    partition, _, offset = position.partition(":")
    return int(offset) < first.get(int(partition), 0)


def _offsets(stored: Stored) -> dict[int, int]:
    source = stored.standing().source
    return {int(partition): offset for partition, offset in source.offsets.items()} if source is not None else {}


def _id(stored: Stored) -> str:
    return stored.standing().prediction_id


async def check_source(log: Log, store: PredictionStore) -> None:
    """Refuse a log that ends below what the store has already seen of it: its topic was recreated.

    Raises:
        LogError: With what to do about it.
    """
    # In this order: other processors go on meanwhile, and what they apply after the ends were read is no sign of anything.
    seen = await store.positions()
    bounds = await log.bounds(EVENTS)
    for partition, offset in seen.items():
        end = bounds.get(partition, (0, 0))[1]
        if offset >= end:
            raise LogError(
                f"partition {partition} of {EVENTS} ends at {end}, but the store has seen offset {offset} of it: the "
                "topic was recreated; raise TIDINGS_LOG_EPOCH and rebuild into an empty store with tidings replay"
            )
