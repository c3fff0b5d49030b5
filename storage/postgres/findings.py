"""What the Postgres store finds and sums by its index."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from tidings.storage.clock import Clock
from tidings.storage.cursor import ListingPlace, encode_cursor
from tidings.storage.errors import IndexBehind
from tidings.storage.postgres.index import pattern, take
from tidings.storage.postgres.listing import apart, listing, matching, summing, sums_only
from tidings.storage.postgres.schema import Statements
from tidings.storage.prediction import Status
from tidings.storage.store import Page, Query, as_read
from tidings.storage.usage import UsageSums, of_rows

CATCH_UP = 2.0
"""Seconds that a reader of the index waits for it."""
FEWEST_CHARACTERS = 3
"""Shorter words are in no group of three."""
MOST_FOUND = 20_000
"""Words that more records have are looked for among the newest: sorting the finds would take longer."""
STATUS_OF: dict[str | None, Status | None] = {None: None} | {
    status.value: status for status in Status
}

T = TypeVar("T")
if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class Findings:
    """For a class that runs statements."""

    _clock: Clock
    _statements: Statements

    async def _run(self, work: "Callable[[Connection], Awaitable[T]]") -> T:
        raise NotImplementedError

    async def find(self, phrase: str, query: Query) -> Page | None:
        """As `list`, by the groups of three characters that the phrase has."""
        index = self._statements.index
        if len(phrase) < FEWEST_CHARACTERS or "\0" in phrase:
            return None
        if not await self._run(lambda one: one.fetchval(index.has_words, index.words)):
            return None
        if not await self._catch_up():
            return None
        wanted = pattern(phrase)
        sql, values = matching(wanted, MOST_FOUND + 1, index.facts)
        if await self._run(lambda one: one.fetchval(sql, *values)) > MOST_FOUND:
            return None
        return await self._page(query, wanted)

    async def unsearchable(self, query: Query) -> int | None:
        """How many have a prompt that lies apart."""
        if not await self._catch_up():
            return None
        names = (self._statements.table, self._statements.index.facts)
        sql, values = apart(sums_only(query), query.at(self._clock.ms()), *names)
        return int(await self._run(lambda one: one.fetchval(sql, *values)))

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """The sums, made by the server."""
        await self._need_index()
        names = (self._statements.table, self._statements.index.facts)
        sql, values = summing(sums_only(query), query.at(self._clock.ms()), *names, by)
        rows = await self._run(lambda one: one.fetch(sql, *values))
        return of_rows([tuple(row) for row in rows], len(by))

    async def index(self) -> int:
        """Index about a thousand records; how many are left."""
        index = self._statements.index
        left = int(await self._run(lambda one: one.fetchval(index.left)))
        if left:

            async def work(connection: "Connection") -> int | None:
                async with connection.transaction():
                    return await take(connection, index)

            taken = await self._run(work)
            left = left if taken is None else taken
        return left

    async def _catch_up(self) -> bool:
        """Wait until what was written before now is in the index; whether it came to that in time."""
        limit = self._clock.monotonic() + CATCH_UP
        place = self._statements.index.place
        [(_, _, last)] = await self._run(lambda one: one.fetch(place))
        while await self.index():
            [(older, first, _)] = await self._run(lambda one: one.fetch(place))
            if not older and (first is None or last is None or first > last):
                break
            if self._clock.monotonic() > limit:
                return False
            await asyncio.sleep(0.01)  # somebody else may be at it
        return True

    async def _need_index_for(self, query: Query) -> None:
        if query.provider is not None or query.error is not None:
            await self._need_index()

    async def _need_index(self) -> None:
        if not await self._catch_up():
            index = self._statements.index
            raise IndexBehind(int(await self._run(lambda one: one.fetchval(index.left))))

    async def _page(self, query: Query, wanted: str | None) -> Page:
        await self._need_index_for(query)
        names = (self._statements.table, self._statements.index.facts)
        sql, values = listing(query, query.at(self._clock.ms()), *names, wanted)
        rows = await self._run(lambda connection: connection.fetch(sql, *values))
        items = [
            as_read(row[1], STATUS_OF[row[2]], row[3], row[4], row[5])
            for row in rows[: query.limit]
        ]
        places = [ListingPlace(row[6], row[0]) for row in rows[: query.limit]]
        more = len(rows) > query.limit and places
        return Page(items, encode_cursor(places[-1]) if more else None, places)
