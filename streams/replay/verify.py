"""Comparing a store in use with what the log says, while it goes on."""

from collections.abc import AsyncIterator, Mapping
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Prediction, Standing, Status
from tidings.storage.store import PredictionStore, Query, Stored, hidden
from tidings.streams.log.protocol import EVENTS, Log
from tidings.streams.replay.judgement import ANYBODY
from tidings.streams.replay.rebuild import Rebuild

Kind = Literal["different", "missing", "extra", "behind", "truncated", "scattered", "unjudged"]
"""different: other bytes; missing: only the log knows it; extra: only the store has it; behind: its last events are not
processed yet, or not compared yet because more keeps coming; truncated: its first event is no longer in the log;
scattered: its events lie in several partitions, where arrival decides; unjudged: something about it cannot be read
here. All but the first three are listed apart and are no faults."""

FAULTS: frozenset[Kind] = frozenset({"different", "missing", "extra"})
UNDECIDED: frozenset[Kind] = frozenset({"scattered", "unjudged"})
"""What the log says about these cannot be told, so nothing is changed because of them."""


class Difference(Struct, frozen=True, gc=False):
    """A prediction on which the live store and the log do not agree."""

    prediction_id: str
    kind: Kind
    live: Stored | None
    rebuilt: Stored | None

    @property
    def unreadable(self) -> bool:
        """Whether what the live store has is no record at all."""
        return self.live is not None and _standing(self.live) is None


class Verification(Struct, gc=False):
    """What a comparison found."""

    compared: int = 0
    equal: int = 0
    hidden: int = 0
    """Left out: expired in the live store or in the rebuilt one."""
    differences: list[Difference] = []
    upto: dict[int, int] = {}
    """Per partition the last offset that the rebuild had read."""
    unjudged: dict[str, str] = {}
    """Per prediction, or `ANYBODY`, what cannot be read here."""

    @property
    def faults(self) -> list[Difference]:
        """Those that mean that something is wrong."""
        return [difference for difference in self.differences if difference.kind in FAULTS]

    @property
    def undecided(self) -> bool:
        """Whether something cannot be judged here, differing or not."""
        return bool(self.unjudged) or any(one.kind in UNDECIDED for one in self.differences)

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
    only: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Verification:
    """Compare the live store with a finished rebuild, byte for byte.

    Args:
        rebuild: Has run to the log's end as of its start, into `scratch`.
        scratch: The rebuilt store.
        live: The store in use, without a cache in front.
        log: Read on if a live record has moved beyond what was rebuilt.
        group: The processor's group: what it has not committed yet may not be in the live store.
        only: This prediction alone, which is then all that the rebuild may hold.
        clock: For what is hidden.
    """
    bounds = await log.bounds(EVENTS)
    first = {partition: start for partition, (start, _) in bounds.items()}
    result = Verification()
    suspects: dict[str, None] = {}
    async for ids in _listed(scratch, live) if only is None else _alone(only):
        await _compare(ids, scratch, live, result, suspects, clock.ms())
    await _follow_moved(rebuild, scratch, live, result, suspects, clock)
    committed = await log.committed(EVENTS, group)
    rebuilt, standing = await scratch.load(list(suspects)), await live.load(list(suspects))
    result.unjudged = rebuild.unjudged
    growing = {i: _offsets(one) for i in suspects if (one := standing.get(i)) and _growing(one)}
    folded = await rebuild.folded_up_to(growing) if growing else {}
    for prediction_id in suspects:
        mine, theirs = rebuilt.get(prediction_id), standing.get(prediction_id)
        if _same(mine, theirs):
            continue  # it moved between the last look and this one
        kind = _kind(mine, theirs, first, committed)
        if prediction_id in growing and kind not in ("truncated", "scattered"):
            # More of its events are judged than its record says: it is compared as of its own position.
            kind = "behind" if _same(folded.get(prediction_id), theirs) else "different"
        elif kind in FAULTS and _moves(theirs, rebuild.next):
            kind = "behind"
        difference = Difference(prediction_id, kind, theirs, mine)
        unjudged = not rebuild.unjudged.keys().isdisjoint({prediction_id, ANYBODY})
        if kind in FAULTS and unjudged and not difference.unreadable:
            difference = replace(difference, kind="unjudged")
        result.differences.append(difference)
    result.upto = {partition: offset - 1 for partition, offset in rebuild.next.items()}
    return result


async def _listed(scratch: PredictionStore, live: PredictionStore) -> AsyncIterator[list[str]]:
    """What either store lists, each once."""
    seen: set[str] = set()
    for store in (scratch, live):
        cursor: str | None = None
        while True:
            page = await store.list(Query(limit=1000, cursor=cursor))
            fresh = [place.prediction_id for place in page.places]
            fresh = [one for one in fresh if one not in seen]
            seen.update(fresh)
            yield fresh
            cursor = page.cursor
            if cursor is None:
                break


async def _alone(prediction_id: str) -> AsyncIterator[list[str]]:
    yield [prediction_id]


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
        if _gone(mine) and _gone(theirs):
            continue  # neither lists it: of a deleted one a store keeps the tombstone only for a time
        result.compared += 1
        if _same(mine, theirs):
            result.equal += 1
        elif _expired(mine, now) or _expired(theirs, now):
            result.hidden += 1
        else:
            suspects[prediction_id] = None


def _same(mine: Stored | None, theirs: Stored | None) -> bool:
    return mine is not None and theirs is not None and mine.encoded == theirs.encoded


def _gone(stored: Stored | None) -> bool:
    return stored is None or stored.deleted


def _expired(stored: Stored | None, now: int) -> bool:
    return stored is not None and not stored.deleted and hidden(stored, now)


async def _follow_moved(
    rebuild: Rebuild,
    scratch: PredictionStore,
    live: PredictionStore,
    result: Verification,
    suspects: dict[str, None],
    clock: Clock,
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
        await _compare(ids, scratch, live, result, suspects, clock.ms())


def _kind(
    mine: Stored | None,
    theirs: Stored | None,
    first: Mapping[int, int],
    committed: Mapping[int, int],
) -> Kind:
    if theirs is not None and _standing(theirs) is None:
        return "extra" if mine is None else "different"
    if theirs is not None and _begun_before(theirs, first):
        return "truncated"
    offsets = _offsets(mine) if mine is not None else {}
    known = _offsets(theirs) if theirs is not None else {}
    if len(offsets.keys() | known.keys()) > 1:
        return "scattered"
    if any(
        offset > known.get(p, -1) and offset >= committed.get(p, 0) for p, offset in offsets.items()
    ):
        return "behind"
    if theirs is None:
        return "missing"
    return "extra" if mine is None else "different"


def _moves(theirs: Stored | None, following: Mapping[int, int]) -> bool:
    """Whether the live record has moved beyond what was rebuilt, once more than anybody would follow."""
    offsets = _offsets(theirs) if theirs is not None else {}
    return any(offset >= following.get(partition, 0) for partition, offset in offsets.items())


def _growing(stored: Stored) -> bool:
    """Whether its text is growing, so that its record lies behind what was judged."""
    if stored.status is not Status.PROCESSING:
        return False
    standing = _standing(stored)
    return isinstance(standing, Prediction) and standing.text_length is not None


def grows(difference: Difference) -> bool:
    """Whether a repair waits for the end: the processor may hold what has grown since."""
    return difference.live is not None and _growing(difference.live)


def ends_otherwise(difference: Difference) -> bool:
    """Whether what the log says would take the end away that the live record has.

    An end was announced, and whoever watched has gone. No repair takes one back: not to another status, and not a
    record away of which the log knows nothing. What the log says to be deleted was deleted on purpose.
    """
    live, rebuilt = difference.live, difference.rebuilt
    if live is None or live.status is None or not live.status.terminal:
        return False
    return rebuilt is None or (not rebuilt.deleted and rebuilt.status is not live.status)


def partition_of(difference: Difference) -> int | None:
    """Where all of a prediction's events lie; None: nobody knows."""
    both = [one for one in (difference.live, difference.rebuilt) if one is not None]
    partitions = {partition for stored in both for partition in _offsets(stored)}
    return partitions.pop() if len(partitions) == 1 else None


def _begun_before(stored: Stored, first: Mapping[int, int]) -> bool:
    standing = stored.standing()
    if not isinstance(standing, Prediction) or not standing.transitions:
        return any(
            offset < first.get(partition, 0) for partition, offset in _offsets(stored).items()
        )
    position = standing.transitions[0].position
    if position is None:
        return False
    partition, _, offset = position.partition(":")
    return int(offset) < first.get(int(partition), 0)


def _offsets(stored: Stored) -> dict[int, int]:
    standing = _standing(stored)
    if standing is None or standing.source is None:
        return {}
    return {int(partition): offset for partition, offset in standing.source.offsets.items()}


def _standing(stored: Stored) -> Standing | None:
    """The record or tombstone; None: these bytes are neither."""
    try:
        return stored.standing()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
