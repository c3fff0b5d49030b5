"""Merging the indexes of all shards into one page, newest first.

Pure: it says which scripts to run, takes their answers, and ends with ids. Each shard is read a
little at a time, and what was found may be used down to the place that all of them have reached.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidings.storage.cursor import ListingPlace, decode_cursor, encode_cursor
from tidings.storage.store import Query

LOOK_AT = 1000
"""Entries of an index that one call looks at, so that no call holds the server up."""

TOP = ListingPlace(2**63, "")
"""Above every place."""

Call = tuple[int, Sequence[str], Sequence[Any]]


class _Run:
    """One index of one shard, as far as it was read."""

    __slots__ = ("ended", "found", "index", "reached", "shard")

    def __init__(self, shard: int, index: str, reached: ListingPlace) -> None:
        self.shard = shard
        self.index = index
        self.reached = reached
        self.ended = False
        self.found: list[ListingPlace] = []


class Listing:
    """A page in the making.

    Args:
        query: What is wanted.
        prefixes: Of the shards' keys, in order.
        now: The time in ms, for expiry.

    Raises:
        ValueError: The query's cursor is none.
    """

    def __init__(self, query: Query, prefixes: Sequence[str], now: int) -> None:
        self._query = query
        self._now = now
        start = TOP if query.cursor is None else decode_cursor(query.cursor)
        self._runs = [
            _Run(shard, prefix + one, start)
            for shard, prefix in enumerate(prefixes)
            for one in _indexes(query)
        ]
        self._unended: list[_Run] = []
        self._places: list[ListingPlace] = []

    def wanted(self) -> list[Call] | None:
        """The calls to make now; None: the page is complete."""
        self._unended = [run for run in self._runs if not run.ended]
        # Below the highest place that such a run has reached there may be more than was found.
        floor = max((run.reached for run in self._unended), default=ListingPlace(-1, ""))
        found = (place for run in self._runs for place in run.found if place >= floor)
        self._places = sorted(found, reverse=True)[: self._query.limit + 1]
        if not self._unended or len(self._places) > self._query.limit:
            return None
        return [(run.shard, (run.index,), self._arguments(run)) for run in self._unended]

    def feed(self, answers: Sequence[Any]) -> None:
        """Take the answers to the calls that were wanted, in their order."""
        for run, (ended, score, last, found) in zip(self._unended, answers, strict=True):
            run.ended = bool(ended)
            if last:
                run.reached = ListingPlace(int(float(score)), last.decode())
            run.found += [
                ListingPlace(int(float(at)), one.decode())
                for one, at in zip(found[::2], found[1::2], strict=True)
            ]

    def page(self) -> tuple[list[ListingPlace], str | None]:
        """The places of the page, and the cursor of the next."""
        shown = self._places[: self._query.limit]
        more = len(self._places) > self._query.limit and shown
        return shown, encode_cursor(shown[-1]) if more else None

    def _arguments(self, run: _Run) -> list[Any]:
        query = self._query
        before = (
            ("", "") if run.reached is TOP else (run.reached.created_at, run.reached.prediction_id)
        )
        return [
            *before,
            self._now,
            min(query.limit + 1, 100),
            LOOK_AT,
            "" if query.status is None else query.status.value,
            *(
                "" if value is None else f"={value}"
                for value in (query.owner, query.model, query.tag)
            ),
            "" if query.owners is None else msgspec.json.encode(query.owners),
        ]


def _indexes(query: Query) -> list[str]:
    """The indexes to merge: the narrowest that there is."""
    if query.owner is not None:
        return [f":owner:{query.owner}"]
    if query.owners is not None:
        return [f":owner:{owner}" for owner in sorted(set(query.owners))]
    if query.tag is not None:
        return [f":tag:{query.tag}"]
    if query.model is not None:
        return [f":model:{query.model}"]
    if query.status is not None:
        return [f":status:{query.status.value}"]
    return [":created"]
