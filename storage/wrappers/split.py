"""Two stores side by side, itself a store.

Each prediction lies in one of them, by a stable hash of its id.

The percentage may change at any time: a record stays in the arm where it is found, only new ones
follow the hash.
"""

import asyncio
import binascii
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from tidings.storage.cursor import encode_cursor
from tidings.storage.store import (
    Capabilities,
    Conflict,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
    distinct_ids,
)
from tidings.storage.usage import UsageSums, merged

T = TypeVar("T")


class Halves(NamedTuple, Generic[T]):
    """What concerns each arm."""

    a: list[T]
    b: list[T]


class SplitStore(PredictionStore):
    """Reads look into the other arm if the first choice has nothing.

    Args:
        a: Where most predictions go.
        b: Where `percent` of them go.
        percent: 0 to 100.
    """

    def __init__(self, a: PredictionStore, b: PredictionStore, percent: float) -> None:
        if not 0 <= percent <= 100:
            raise ValueError(f"{percent} is no percentage; give one from 0 to 100")
        self.arms = (a, b)
        self.name = f"{a.name}+{b.name}"
        self._share = round(percent * 100)
        first, second = a.capabilities, b.capabilities
        self.capabilities = Capabilities(
            compare_and_set=first.compare_and_set and second.compare_and_set,
            durable=first.durable and second.durable,
            lists=first.lists and second.lists,
            filters=first.filters & second.filters,
        )

    def arm(self, prediction_id: str) -> int:
        """Where a new prediction of this id goes: 0 or 1."""
        # Not the lowest bits alone: a store behind may divide by the same hash.
        return 1 if binascii.crc32(b"arm:" + prediction_id.encode()) % 10_000 < self._share else 0

    async def claim(self, ownership: Ownership) -> Ownership:
        """Claim both; if one of them belongs to somebody else, that is the answer."""
        standing = [await arm.claim(ownership) for arm in self.arms]
        return next((one for one in standing if one != ownership), ownership)

    async def positions(self) -> dict[int, int]:
        """Per partition the highest offset that was ever written to either."""
        a, b = await asyncio.gather(*(arm.positions() for arm in self.arms))
        return {
            partition: max(a.get(partition, -1), b.get(partition, -1))
            for partition in a.keys() | b.keys()
        }

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, from the arm that has it."""
        first = self.arm(prediction_id)
        stored = await self.arms[first].get(prediction_id)
        return stored if stored is not None else await self.arms[1 - first].get(prediction_id)

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids in either arm."""
        found = await self._on_both(self._by_arm(prediction_ids, lambda one: one))
        missing = [one for one in prediction_ids if one not in found]
        if missing:
            a, b = self._by_arm(missing, lambda one: one)
            found |= await self._on_both((b, a))
        return found

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Write each where its record stands.

        A new one where its hash says, unless the other arm has it.
        """
        if not writes:
            return []
        distinct_ids(writes)
        outcomes = await self._taken(writes)
        rest = [write for write in writes if _id(write) not in outcomes]
        outcomes |= await self._write(self._by_arm(rest, _id))
        elsewhere = [
            write for write in rest if write.expected and outcomes[_id(write)] == Conflict(0)
        ]
        if elsewhere:
            a, b = self._by_arm(elsewhere, _id)
            outcomes |= await self._write((b, a))
        return [outcomes[_id(write)] for write in writes]

    async def list(self, query: Query) -> Page:
        """The pages of both, merged."""
        pages = await asyncio.gather(*(arm.list(query) for arm in self.arms))
        return _merged(pages, query.limit)

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """The sums of both; None if one of them cannot count."""
        sums: Counter[str] = Counter()
        for counts in await asyncio.gather(*(arm.count(query, most) for arm in self.arms)):
            if counts is None:
                return None
            sums.update(counts)
        return dict(sums)

    async def find(self, phrase: str, query: Query) -> Page | None:
        """The pages of both, merged; None if one of them has to be looked through."""
        pages = await asyncio.gather(*(arm.find(phrase, query) for arm in self.arms))
        found = [page for page in pages if page is not None]
        return _merged(found, query.limit) if len(found) == len(pages) else None

    async def unsearchable(self, query: Query) -> int | None:
        """The sum of both; None if one of them does not know."""
        numbers = await asyncio.gather(*(arm.unsearchable(query) for arm in self.arms))
        known = [number for number in numbers if number is not None]
        return sum(known) if len(known) == len(numbers) else None

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """The sums of both; None if one of them cannot sum."""
        sums = await asyncio.gather(*(arm.usage(query, by) for arm in self.arms))
        found = [one for one in sums if one is not None]
        return merged(found) if len(found) == len(sums) else None

    async def index(self) -> int:
        """As both do."""
        return sum([await arm.index() for arm in self.arms])

    async def sweep(self, now: int, limit: int) -> int:
        """Sweep both."""
        gone = await self.arms[0].sweep(now, limit)
        return gone + await self.arms[1].sweep(now, limit - gone) if gone < limit else gone

    async def persist(self) -> None:
        """As both do."""
        for arm in self.arms:
            await arm.persist()

    async def mark_filled(self) -> None:
        """Say so to both."""
        for arm in self.arms:
            await arm.mark_filled()

    async def close(self) -> None:
        """Close both."""
        try:
            await self.arms[0].close()
        finally:
            await self.arms[1].close()

    async def _taken(self, writes: Sequence[Write]) -> dict[str, Outcome]:
        """Of the new ones those whose id stands in the arm that their hash does not name."""
        a, b = self._by_arm([_id(write) for write in writes if not write.expected], lambda one: one)
        found = await self._on_both((b, a)) if a or b else {}
        return {one: Conflict(stored.version) for one, stored in found.items()}

    async def _on_both(self, ids: Sequence[Sequence[str]]) -> dict[str, Stored]:
        loads = [arm.load(some) for arm, some in zip(self.arms, ids, strict=True) if some]
        found: dict[str, Stored] = {}
        for answer in await asyncio.gather(*loads):
            found |= answer
        return found

    async def _write(self, writes: Sequence[Sequence[Write]]) -> dict[str, Outcome]:
        busy = [(arm, some) for arm, some in zip(self.arms, writes, strict=True) if some]
        answers = await asyncio.gather(*(arm.write(some) for arm, some in busy))
        return {
            _id(write): outcome
            for (_, some), outcomes in zip(busy, answers, strict=True)
            for write, outcome in zip(some, outcomes, strict=True)
        }

    def _by_arm(self, items: Sequence[T], key: Callable[[T], str]) -> Halves[T]:
        halves: Halves[T] = Halves([], [])
        for item in items:
            halves[self.arm(key(item))].append(item)
        return halves


def _merged(pages: Sequence[Page], limit: int) -> Page:
    items = [item for page in pages for item in zip(page.places, page.items, strict=True)]
    items.sort(key=lambda item: item[0], reverse=True)
    shown = items[:limit]
    # Below the end of an arm's page the other's records may be followed by more of that arm.
    ends = [page.places[-1] for page in pages if page.cursor is not None and page.items]
    if ends:
        shown = [item for item in shown if item[0] >= max(ends)]
    more = bool(ends) or len(items) > len(shown)
    places = [place for place, _ in shown]
    cursor = encode_cursor(places[-1]) if more and places else None
    return Page([stored for _, stored in shown], cursor, places)


def _id(write: Write) -> str:
    return write.record.prediction_id
