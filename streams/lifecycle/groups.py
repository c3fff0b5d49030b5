"""Groups: their members' creates, and the members' statuses, told to the group.

Every unfinished group is known here with its members. Only the records of the group and of its
members count. What is missing is appended, after a crash too, and what comes twice is Stale by the
rules.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence

from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import GROUP, Prediction, Status, decode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change
from tidings.streams.lifecycle.follow_ups import FollowUps
from tidings.streams.lifecycle.schedule import Schedule
from tidings.streams.log.protocol import NewRecord
from tidings.streams.rules.groups import STATUSES
from tidings.streams.rules.retries import due_retry
from tidings.streams.submission.submitter import Load

BATCH = 50
"""Groups looked at in one go."""
NOT_MINE = 500
"""Ms until it is looked whether a partition has become this instance's."""
AGAIN, LONGEST = 2_000, 60_000
"""Ms until a group is looked at whole again, the first time and later: nothing of it was lost."""
MOST_LINKS = 100
"""Attempts at one member that are followed."""

_ENDED = frozenset({"succeeded", "failed", "canceled"})

logger = get_logger(__name__)


class _Group(Struct, gc=False):
    """An unfinished group."""

    record: Prediction
    first: list[str] = []
    """The first attempt at each member."""
    members: list[str] = []
    """The newest known one."""
    told: list[tuple[int, int]] = []
    """Of each member the attempt and the rank of its status that the group was told."""
    wait: int = AGAIN
    canceled: bool = False
    """Its members were asked to cancel."""


class Groups:
    """Lets groups have their members, and know how they stand.

    Args:
        load: Reads records past any cache.
        follow_ups: Appends the events.
        expect: Told of the id of each member before it is created.
        mine: Whether this instance acts on a partition.
        clock: Tells the time.
    """

    def __init__(
        self,
        load: Load,
        follow_ups: FollowUps,
        expect: Callable[[str], None] = lambda _prediction_id: None,
        *,
        mine: Callable[[Collection[int]], bool] = lambda _partitions: True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._load, self._follow_ups, self._expect = load, follow_ups, expect
        self._mine, self._clock = mine, clock
        self._groups: dict[str, _Group] = {}
        self._members: dict[str, tuple[str, int]] = {}
        """The group and the place of each member that may still change."""
        self._schedule = Schedule(clock)
        self._news: dict[str, Change] = {}
        """The newest change of each member that was not looked at yet."""
        self._busy = False
        self._wake = asyncio.Event()
        self.created = 0
        """Members created."""
        self.told = 0
        """Statuses told to groups."""

    def __len__(self) -> int:
        return len(self._groups)

    # ---- what is unfinished ----

    def notice(self, changes: Sequence[Change]) -> None:
        """Take note of changes: of groups, and of their members."""
        members = self._members
        for change in changes:
            if change.kind is not None:
                self._notice_group(change)
            elif members and change.prediction_id in members:
                known = self._news.get(change.prediction_id)
                if known is None or known.version < change.version:
                    self._news[change.prediction_id] = change
                    self._wake.set()
            elif not change.value and change.prediction_id in self._groups:
                self._forget(change.prediction_id)

    def _notice_group(self, change: Change) -> None:
        known = self._groups.get(change.prediction_id)
        if change.status in _ENDED:
            if known is not None:
                self._schedule.put(change.prediction_id, self._clock.ms())
                self._wake.set()
        elif known is None:
            self.remember(decode(change.value))
        elif not known.canceled and b'"cancelRequestedAt":' in change.value:
            known.record = decode(change.value)
            self._schedule.put(change.prediction_id, self._clock.ms())
            self._wake.set()

    def remember(self, record: Prediction) -> None:
        """Take note of a record as the store has it."""
        if record.group is not None and record.retry_count and not record.status.terminal:
            self.adopt(record.group)
        if record.kind != GROUP or record.status.terminal or record.prediction_id in self._groups:
            return
        self._groups[record.prediction_id] = _Group(record)
        self._schedule.put(record.prediction_id, self._clock.ms())
        self._wake.set()

    def adopt(self, group: str) -> None:
        """A member of this group is tried again, though the group may have ended."""
        self._schedule.put(group, self._clock.ms())
        self._wake.set()

    def _forget(self, group: str) -> None:
        known = self._groups.pop(group, None)
        for member in known.members if known is not None else ():
            self._members.pop(member, None)
            self._news.pop(member, None)

    # ---- what is to be done ----

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            if not self._news:
                await self._first(self._schedule.wait(), self._wake.wait())
            await self.once()

    async def _first(self, *waits: Coroutine[object, object, object]) -> None:
        tasks = [asyncio.create_task(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def once(self) -> int:
        """Tell groups what is new, and look at those that are due; returns how much that was."""
        news, self._news = self._news, {}
        due = self._schedule.take(BATCH)
        try:
            if news:
                await self._tell(news)
        except StorageError as error:
            logger.warning("groups.store_unavailable", error=str(error))
            self._news = {**news, **self._news}
            await asyncio.sleep(1)
        for name in due:
            await self._look(name)
        return len(news) + len(due)

    async def _look(self, name: str) -> None:
        """Look at a whole group: create what is missing, tell what it does not know."""
        try:
            known = self._groups.get(name) or await self._adopted(name)
            if known is None:
                return
            if not self._ours(known.record):
                self._schedule.put(name, self._clock.ms() + NOT_MINE)
                return
            if not known.members:
                known.first = await self._follow_ups.members(known.record)
                known.members = list(known.first)
                known.told = [(0, 0)] * len(known.members)
                self._members |= {one: (name, at) for at, one in enumerate(known.members)}
            await self._look_at_members(known)
        except StorageError as error:
            logger.warning("groups.store_unavailable", group=name, error=str(error))
            self._schedule.put(name, self._clock.ms() + AGAIN)
        except Exception as error:  # one group must not end the watch over all
            logger.error("groups.defect", group=name, exc_info=error)
            self._schedule.put(name, self._clock.ms() + LONGEST)
        else:
            if name in self._groups:
                self._schedule.put(name, self._clock.ms() + known.wait)
                known.wait = min(2 * known.wait, LONGEST)

    async def _adopted(self, name: str) -> _Group | None:
        stored = (await self._load([name])).get(name)
        record = None if stored is None or stored.deleted else decode(stored.encoded)
        if record is None or record.kind != GROUP:
            return None
        known = self._groups[name] = _Group(record)
        return known

    async def _look_at_members(self, known: _Group) -> None:
        group = known.record
        loaded = await self._load([group.prediction_id, *known.members])
        standing = loaded.get(group.prediction_id)
        if standing is None or standing.deleted:
            self._forget(group.prediction_id)
            return
        group = known.record = decode(standing.encoded)
        known.told = told_by(group)
        before = list(known.members)
        missing = [
            at for at, one in enumerate(before) if one not in loaded and one == known.first[at]
        ]
        for at in missing:
            self._expect(known.members[at])
        await self._follow_ups.publish(await self._follow_ups.creates(group, missing))
        self.created += len(missing)
        events: list[NewRecord] = []
        for at, member in enumerate(known.members):
            if (stored := loaded.get(member)) is not None:
                events += await self._about(known, at, stored)
        canceling = group.cancel_requested_at is not None
        if canceling:
            events += [
                self._follow_ups.cancel(member)
                for member in known.members
                if (stored := loaded.get(member)) is not None and _may_be_canceled(stored)
            ]
        await self._publish(events)
        known.canceled = canceling and not missing
        if (
            group.status.terminal
            and before == known.members
            and not any(
                one not in loaded or not (loaded[one].deleted or _ended(loaded[one]))
                for one in before
            )
        ):
            self._forget(group.prediction_id)

    async def _tell(self, news: dict[str, Change]) -> None:
        """Tell groups what has become of members."""
        events: list[NewRecord] = []
        for member, change in news.items():
            name, at = self._members.get(member, ("", 0))
            known = self._groups.get(name)
            if known is None or not self._ours(known.record):
                continue
            status = Status(change.status) if change.value and change.status else None
            stored = Stored(change.version, status, change.value)
            events += await self._about(known, at, stored)
        await self._publish(events)

    async def _about(self, known: _Group, at: int, stored: Stored) -> list[NewRecord]:
        """What a group is to be told of a member, and of the attempts after it."""
        for _ in range(MOST_LINKS):
            attempt, rank = known.told[at]
            if stored.status is None:  # deleted: nothing comes of it any more
                return self._forward(known, at, Status.CANCELED, attempt)
            known_already = not stored.status.terminal and stored.status.rank <= rank
            if known_already and b'"retryCount":' not in stored.encoded:
                return []
            record = decode(stored.encoded)
            if record.group != known.record.prediction_id:
                # Somebody else has the id that the member would have had.
                return self._forward(known, at, Status.FAILED, attempt)
            following = record.retried_as
            if following is None:
                if known.record.cancel_requested_at is None and due_retry(record) is not None:
                    return []  # it is tried again: this is not the member's end
                return self._forward(known, at, record.status, record.retry_count or 0)
            self._members.pop(known.members[at], None)
            known.members[at] = following
            self._members[following] = (known.record.prediction_id, at)
            newer = (await self._load([following])).get(following)
            if newer is None:
                return []
            stored = newer
        return []

    def _forward(self, known: _Group, at: int, status: Status, attempt: int) -> list[NewRecord]:
        if (attempt, status.rank) <= known.told[at]:
            return []
        known.told[at] = (attempt, status.rank)
        return [self._follow_ups.member(known.record, at, status, attempt)]

    async def _publish(self, events: Sequence[NewRecord]) -> None:
        await self._follow_ups.publish(events)
        self.told += len(events)

    def _ours(self, record: Prediction) -> bool:
        return record.source is None or self._mine([int(one) for one in record.source.offsets])


def told_by(group: Prediction) -> list[tuple[int, int]]:
    """What a group knows of its members: of each the attempt and the rank of its status."""
    attempts = group.member_retries or {}
    return [
        (attempts.get(str(at), 0), STATUSES[letter].rank)
        for at, letter in enumerate(group.member_status or "")
    ]


def _ended(stored: Stored) -> bool:
    return stored.status is not None and stored.status.terminal


def _may_be_canceled(stored: Stored) -> bool:
    return (
        stored.status is not None
        and not stored.status.terminal
        and b'"cancelRequestedAt":' not in stored.encoded
    )
