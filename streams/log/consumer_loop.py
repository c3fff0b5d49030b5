"""Reading a topic as a member of a group: what every reader of a group needs, in one place.

The processor, the archiver and the reader of thin webhooks all do the same. They fetch, notice when
partitions were reassigned, begin several records at once, and commit what is done. Three races hide
in it:

- **Out of order.** Records are finished in another order than they were read. What is committed is
  the lowest offset that is still open, or the next one to read if nothing is. If the highest
  finished offset were committed, a crash would lose whatever below it was still under way.
- **A partition that was taken away and comes back.** The generation rises with each assignment.
  What was begun before counts no more, because another member may have read on and committed
  meanwhile. So offsets of the old generation must not be committed in the new one, and a claim of
  the old one must not close what was read again.
- **Slow commits.** Kafka's coordinator takes milliseconds for a commit, and longer while a broker is away. Commits run
  in the background, at most one at a time, always with the newest positions.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic

from msgspec import Struct

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.streams.log.protocol import Consumer, Log, LogError, Place, Record

PAUSE = 0.05
"""Seconds after a fetch that failed because the log is away."""
LAST_COMMIT = 2.0
"""Seconds that the commit under way may still take when the member leaves."""

logger = get_logger(__name__)


class Claim(Struct, frozen=True, gc=False):
    """Records that were begun together and are not finished."""

    generation: int
    lowest: Mapping[int, int]
    """Per partition the lowest offset among them: nothing from there on is committed."""


class ConsumerLoop:
    """A membership in a group, and what of its partitions is read, open and committed.

    Args:
        log: Where the topic is.
        topic: What is read.
        group: The consumer group.
        committed: Called after each commit that stood.
        persist: Awaited before each commit: what was done must last before nobody reads it again.
        gather: See `Log.consume`.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        group: str,
        *,
        committed: Callable[[], None] | None = None,
        persist: Callable[[], Awaitable[None]] | None = None,
        gather: float = 0.0,
    ) -> None:
        self.consumer: Consumer = log.consume(topic, group, gather)
        self._group = group
        self._on_commit = committed
        self._persist = persist
        self._generation = -1
        self._next: dict[int, int] = {}
        """Per partition the next offset to read."""
        self.went_back = False
        """Whether a fetch has given records again without a new assignment: nobody sought, so it may be another topic."""
        self._fetched_in = -1
        """The generation of the last fetch."""
        self._fetched: dict[int, int] = {}
        """Per partition the offset after the last record fetched, begun or not."""
        self._open: dict[int, Counter[int]] = {}
        """Per partition the lowest offsets of the claims that are not finished, and how many begin there."""
        self._kept: dict[int, Counter[int]] = {}
        """The same of what is handled, and must not be committed yet."""
        self._committed: dict[int, int] = {}
        self._committer: asyncio.Task[None] | None = None
        self._again = False
        self._committed_at = 0.0
        self._holders: set[str] = set()

    @property
    def generation(self) -> int:
        """Of the assignment that was taken over last."""
        return self._generation

    @property
    def current(self) -> bool:
        """Whether the partitions are still those that were taken over last."""
        return self.consumer.generation() == self._generation

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        """At most `limit` records; none if the log is away for a moment. Raises errors that no retry fixes."""
        try:
            records = await self.consumer.fetch(limit, wait)
            if (generation := self.consumer.generation()) != self._fetched_in:
                # Here and not in `reassigned`, which is asked after the first fetch of an assignment: what was fetched
                # then is not begun yet, and an offset behind it must not be committed.
                self._fetched_in = generation
                self._fetched.clear()
            fetched = self._fetched
            for record in records:
                partition = record.partition
                if record.offset < fetched.get(partition, self._next.get(partition, 0)):
                    self.went_back = True
                fetched[partition] = record.offset + 1
            return records
        except LogError as error:
            if not error.retryable:
                raise
            logger.warning("consumer.log_unavailable", group=self._group, error=str(error))
            await asyncio.sleep(PAUSE)
            return ()

    def reassigned(self) -> bool:
        """Whether partitions were reassigned since this was asked last; what was open then is forgotten."""
        generation = self.consumer.generation()
        self.went_back = False
        if generation == self._generation:
            return False
        self._generation = generation
        self._next.clear()
        self._open.clear()
        self._kept.clear()
        self._committed.clear()
        logger.info(
            "consumer.assigned", group=self._group, partitions=sorted(self.consumer.assigned())
        )
        return True

    def hold(self, hold: bool, reason: str = "") -> None:
        """Let `fetch` return nothing for this reason, or no longer for it; it keeps the membership either way."""
        was = bool(self._holders)
        (self._holders.add if hold else self._holders.discard)(reason)
        if bool(self._holders) is not was:
            if self._holders:
                self.consumer.pause()
            else:
                self.consumer.resume()

    # ---- what is done ----

    def begin(self, records: Sequence[Record]) -> Claim:
        """These records are under way: nothing from the lowest of them on is committed until `finish`."""
        lowest: dict[int, int] = {}
        following = self._next
        for record in records:
            partition = record.partition
            if partition not in lowest:  # in order within a partition: the first is the lowest
                lowest[partition] = record.offset
            following[partition] = record.offset + 1
        for partition, offset in lowest.items():
            self._open.setdefault(partition, Counter())[offset] += 1
            self._committed.setdefault(partition, offset)  # where reading began is no news
        return Claim(self._generation, lowest)

    def passed(self, records: Sequence[Record]) -> None:
        """There is nothing to do about these records."""
        for record in records:
            self._committed.setdefault(record.partition, record.offset)
            self._next[record.partition] = record.offset + 1

    def finish(self, claim: Claim) -> None:
        """What was begun together is done; one of an earlier generation counts no more."""
        self._let_go(self._open, claim)

    def keep(self, place: Place) -> Claim:
        """What lies here is handled, but nothing from it on is committed until `release`."""
        self._kept.setdefault(place.partition, Counter())[place.offset] += 1
        return Claim(self._generation, {place.partition: place.offset})

    def release(self, claim: Claim) -> None:
        """What was kept may be committed; one of an earlier generation counts no more."""
        self._let_go(self._kept, claim)

    def _let_go(self, claims: dict[int, Counter[int]], claim: Claim) -> None:
        if claim.generation == self._generation:
            for partition, offset in claim.lowest.items():
                counts = claims[partition]
                if counts[offset] > 1:
                    counts[offset] -= 1
                else:
                    del counts[offset]

    def done(self) -> dict[int, int]:
        """Per partition that anything was read of, the offset below which everything is handled.

        What is committed may lie before it: see `keep`.
        """
        found = {}
        beyond = self.consumer.positions()
        for partition, following in self._next.items():
            if still_open := self._open.get(partition):
                found[partition] = min(still_open)
            elif self._fetched.get(partition, following) == following:
                # All that was fetched is done; ends of transactions have offsets too, and nothing to be done about.
                found[partition] = max(following, beyond.get(partition, 0))
            else:
                found[partition] = following
        return found

    async def at_end(self) -> frozenset[int]:
        """The partitions of which everything was fetched; none if the log does not say.

        A fetch that gave nothing is no sign: the first records of an assignment may take their time.
        """
        try:
            lag = await self.consumer.lag()
        except LogError:
            return frozenset()
        return frozenset(p for p, left in lag.items() if not left) if self.current else frozenset()

    def _uncommitted(self) -> dict[int, int]:
        """What may be committed of the assigned partitions, if it differs from what is."""
        assigned, committed = self.consumer.assigned(), self._committed
        found = {}
        for partition, offset in self.done().items():
            if kept := self._kept.get(partition):
                offset = min(offset, *kept)
            if partition in assigned and committed.get(partition) != offset:
                found[partition] = offset
        return found

    # ---- commits ----

    def commit_soon(self) -> None:
        """Commit what is done, in the background."""
        self._again = True
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit())

    async def commit(self) -> None:
        """Commit what is done, and wait until it is; a commit that fails is made again with the next."""
        self.commit_soon()
        if self._committer is not None:
            await asyncio.wait([self._committer])

    def commit_every(self, seconds: float) -> None:
        """Commit what is done if the last commit lies so far back; what is not committed is read again."""
        if monotonic() - self._committed_at >= seconds:
            self._committed_at = monotonic()
            self.commit_soon()

    async def _commit(self) -> None:
        while self._again:
            self._again = False
            generation, positions = self._generation, self._uncommitted()
            if not positions:
                return
            try:
                if self._persist is not None:
                    await self._persist()
                await self.consumer.commit(positions)
            except (LogError, StorageError) as error:
                # Whoever reads from the older offset meets what is done already, which is harmless.
                logger.warning("consumer.commit_failed", group=self._group, error=str(error))
                return
            if generation == self._generation:
                self._committed.update(positions)
            if self._on_commit is not None:
                self._on_commit()

    async def close(self) -> None:
        """Commit what is done and leave the group."""
        if self._committer is not None:
            await asyncio.wait([self._committer], timeout=LAST_COMMIT)
        self._again = True
        await self._commit()
        await self.consumer.close()
