"""The notifier: follows the changes and tells other servers of the steps that they asked for.

1. Take changes of its partitions, in a group of its own.
2. Work out who is to be told of which transitions.
3. Append the deliveries, and how far each address has been told, to `predictions.deliveries`.
4. Commit the changes. From here on a delivery stands by itself: a slow address holds back nothing.
5. Post, in the background.
6. Note what became of it: it is removed, or tried again later, or given up.

A crash before 4 reads the change again and finds in `told` what stands already; one before 6
sends it again with the same `webhook-id`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, decode
from tidings.streams.changes.codec import Change, parse
from tidings.streams.log.consumer_loop import ConsumerLoop
from tidings.streams.log.protocol import (
    CHANGES,
    DELIVERIES,
    Log,
    LogError,
    NewRecord,
    Position,
    Record,
    Since,
)
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.notifications.address import AddressBook, Sealed
from tidings.streams.notifications.delivery import (
    START_KEY,
    WAITING,
    Delivery,
    Key,
    Start,
    SwitchedOff,
    Told,
    Waiting,
    body,
    delivery_key,
    due_question,
    due_transitions,
    encoded,
    may_be_told,
    order_of,
    question_number,
    switched_off_record,
    told_key,
    waiting_of,
    wanted_events,
)
from tidings.streams.notifications.dispatcher import Dispatcher
from tidings.streams.notifications.records import key_of, read
from tidings.streams.processing.dead_letters import attempts

GROUP = "tidings-notifier"
"""The consumer group."""
FETCH = 500
COMMIT_EVERY = 1.0
MOST_TOLD = 100_000
"""Predictions of which it is known how far they were told, in memory and in the topic. One that was
forgotten and is announced again is told again, with the same ids."""
_RETRY_LOG = 0.5

T = TypeVar("T")

logger = get_logger(__name__)


class _Progress(Struct):
    """How far a prediction was told."""

    partition: int
    targets: dict[str, Told]


class Target(Struct, frozen=True):
    """An address that is told of every prediction."""

    address: Sealed
    wanted: frozenset[str]


class Notifier:
    """Reads changes, makes deliveries of them and has them sent.

    Args:
        log: Where changes and deliveries are.
        dispatcher: Sends them.
        book: Names addresses.
        targets: Addresses that are told of every prediction, beside a prediction's own.
        reached: Told of each numbered step as it ends; tests end the process there.
    """

    def __init__(
        self,
        log: Log,
        dispatcher: Dispatcher,
        book: AddressBook,
        targets: Sequence[Target] = (),
        *,
        reached: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._log, self._book = log, book
        self._targets = [(book.target(one.address), one) for one in targets]
        self.dispatcher = dispatcher
        self._reached = dispatcher.reached = reached
        self._told: OrderedDict[str, _Progress] = OrderedDict()
        """By prediction, the one announced last at the end."""
        self._forgotten: list[NewRecord] = []
        """Removals of what was told, for the next append."""
        self._starts: dict[int, int] = {}
        self._assigned: frozenset[int] = frozenset()
        self._stopping = asyncio.Event()
        self.started = False
        """Whether it is noted where the very first one began: what comes from then on is told."""
        self.last_alive = time.monotonic()
        """When the loop last ran, on the monotonic clock."""

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    async def run(self) -> None:
        """Notify until `stop`. Outages of the log are waited out; anything else is raised."""
        await self._retried(self._mark_start)
        self.started = True
        loop = ConsumerLoop(self._log, CHANGES, GROUP, committed=lambda: self._reached(4))
        following: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                records = await loop.fetch(FETCH, 0.5)
                self.last_alive = time.monotonic()
                if loop.reassigned():
                    if following is not None:
                        following.cancel()
                    records, since = await self._take_over(loop, records)
                    following = asyncio.create_task(self._follow(since))
                elif following is not None and following.done():
                    following.result()
                if records:
                    await self._plan(loop, records)
                loop.commit_every(COMMIT_EVERY)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            self.dispatcher.clear()
            await loop.close()

    # ---- where it begins ----

    async def _mark_start(self) -> None:
        """Note the changes' ends at the very first start: what came before is told to nobody."""
        starts = await self._read_starts()
        if not starts and not await self._log.committed(CHANGES, GROUP):
            ends = {one: end for one, (_, end) in (await self._log.bounds(CHANGES)).items()}
            marks = [encoded(START_KEY, Start(end), number) for number, end in ends.items()]
            await self._log.append(DELIVERIES, marks)
            # Of two notifiers that start together the first one's marks count, for both.
            starts = await self._read_starts()
        self._starts = starts

    async def _read_starts(self) -> dict[int, int]:
        starts: dict[int, int] = {}
        async for batch in read_until_end(self._log, DELIVERIES):
            for record in batch:
                if record.key == START_KEY and (mark := read(record.value, Start)) is not None:
                    starts.setdefault(record.partition, mark.offset)
        return starts

    async def _take_over(
        self, loop: ConsumerLoop, records: Sequence[Record]
    ) -> tuple[Sequence[Record], Mapping[int, int]]:
        """Begin with what was assigned; returns the records that count, and where to follow from."""
        self.dispatcher.clear()
        self._told.clear()
        self._forgotten.clear()
        self._assigned = assigned = loop.consumer.assigned()
        committed = await self._retried(lambda: self._log.committed(CHANGES, GROUP))
        begin = {
            one: self._starts[one] for one in assigned - committed.keys() if one in self._starts
        }
        if begin:
            loop.consumer.seek(begin)
            records = [record for record in records if record.partition not in begin]
        since = await self._retried(self._restore)
        return records, since

    async def _restore(self) -> Mapping[int, int]:
        """Read what is to be sent, and how far addresses have been told; where the topic ended."""
        ends = {one: end for one, (_, end) in (await self._log.bounds(DELIVERIES)).items()}
        waiting: dict[bytes, tuple[Key, Record]] = {}
        off: dict[str, SwitchedOff] = {}
        async for batch in read_until_end(self._log, DELIVERIES, end=ends):
            for record in batch:
                key = key_of(record)
                if key is None or record.key is None:
                    continue
                if key.kind == "a":
                    off.pop(key.target, None)
                    if (reason := read(record.value, SwitchedOff)) is not None:
                        off[key.target] = reason
                elif record.partition not in self._assigned:
                    continue
                elif key.kind == "t":
                    self._remember_stored(key, record)
                elif key.kind == "d" and record.value:
                    waiting[record.key] = key, record
                elif key.kind == "d":
                    waiting.pop(record.key, None)
        for target, reason in off.items():
            self.dispatcher.switch(target, reason)
        # Of an id that is used again the former prediction's steps come first.
        for key, record in sorted(
            waiting.values(), key=lambda one: (one[0].created_at, order_of(one[0].number))
        ):
            self._add(key, record)
        if waiting:
            logger.info("notifier.restored", waiting=len(waiting))
        return ends

    def _add(self, key: Key, record: Record) -> None:
        delivery = read(record.value, Delivery)
        if delivery is not None:
            position = Position(record.partition, record.offset)
            self.dispatcher.add(
                waiting_of(key.target, delivery, position, attempts(record), record.timestamp)
            )

    # ---- what others append ----

    async def _follow(self, since: Since) -> None:
        """Take what was redriven, and hear of addresses that other notifiers switch off or on."""
        while True:
            try:
                async for batch in self._log.follow(DELIVERIES, since):
                    for record in batch:
                        since = {**_positions(since), record.partition: record.offset + 1}
                        await self._heed(record)
            except LogError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(_RETRY_LOG)

    async def _heed(self, record: Record) -> None:
        key = key_of(record)
        if key is None:
            return
        if key.kind == "a":
            known = key.target in self.dispatcher.switched_off
            if bool(record.value) != known:
                self.dispatcher.switch(key.target, read(record.value, SwitchedOff))
        elif key.kind == "d" and attempts(record) and record.partition in self._assigned:
            if key.target in self.dispatcher.switched_off:
                # Whoever redrives it wants it sent.
                on = switched_off_record(key.target, None)
                await self._retried(lambda: self._log.append(DELIVERIES, [on]))
                self.dispatcher.switch(key.target, None)
            self._add(key, record)

    # ---- 2 and 3: who is told of what ----

    async def _plan(self, loop: ConsumerLoop, records: Sequence[Record]) -> None:
        claim = loop.begin(records)
        self._reached(1)
        appended, self._forgotten = self._forgotten, []
        made: list[tuple[int, str, Delivery]] = []
        """Of each delivery the index of its record."""
        for record in records:
            change = parse(record)
            if change is None:
                continue
            if change.deleted:
                appended += self.dispatcher.forget(change.prediction_id)
                appended += self._forget(change.prediction_id)
            elif self._targets or may_be_told(change.value):
                self._deliveries(change, record.partition, appended, made)
        self._reached(2)
        if appended:
            positions = await self._retried(lambda: self._log.append(DELIVERIES, appended))
            self._reached(3)
            for index, target, delivery in made:
                waiting = waiting_of(target, delivery, positions[index])
                await self._take(waiting, delivery)
        loop.finish(claim)  # it is committed with the next commit: 4

    def _deliveries(
        self,
        change: Change,
        partition: int,
        appended: list[NewRecord],
        made: list[tuple[int, str, Delivery]],
    ) -> None:
        try:
            record = decode(change.value)
        except (msgspec.DecodeError, UnicodeError) as error:
            logger.warning("notifier.unreadable_change", error=str(error), partition=partition)
            return
        now = int(time.time() * 1000)
        progress = self._told.get(record.prediction_id)
        for target, address, wanted in self._who(record):
            known = None if progress is None else progress.targets.get(target)
            skip = change.quiet or 0
            due = [
                (number, step.to.value, step.at)
                for number, step in due_transitions(record, known, wanted, skip)
            ]
            if (question := due_question(record, known, wanted, skip)) is not None:
                number = question_number(len(record.transitions), question)
                due.append((number, WAITING, record.updated_at))
            if not due and (not skip or (known is not None and known.count >= skip)):
                continue
            for number, reached, at in due:
                delivery = Delivery(
                    record.prediction_id,
                    record.created_at,
                    number,
                    address,
                    body(change.value, record.kind, reached, at),
                    now,
                )
                made.append((len(appended), target, delivery))
                appended.append(encoded(delivery_key(target, delivery), delivery, partition))
            count = Told(record.created_at, len(record.transitions), record.question_number or 0)
            self._remember(partition, target, record.prediction_id, count)
            appended.append(encoded(told_key(target, record.prediction_id), count, partition))

    def _who(self, record: Prediction) -> list[tuple[str, Sealed, frozenset[str]]]:
        """Targets of a record, each once: its own address, and those that are told of everything."""
        found = {}
        if (own := read(bytes(record.webhook), Sealed)) is not None:
            name = self._book.target(own)
            found[name] = name, own, wanted_events(record)
        for name, one in self._targets:
            before = found.get(name)
            wanted = one.wanted if before is None else one.wanted | before[2]
            found[name] = name, one.address, wanted
        return list(found.values())

    async def _take(self, waiting: Waiting, delivery: Delivery) -> None:
        if self.dispatcher.full(waiting.target):
            reason = f"{delivery.address.host}: too many deliveries wait for it"
            await self.dispatcher.bury(waiting, delivery, "webhook-backlog", reason)
        else:
            self.dispatcher.add(waiting)

    def _remember(self, partition: int, target: str, prediction_id: str, told: Told) -> None:
        progress = self._told.get(prediction_id)
        if progress is None:
            progress = self._told[prediction_id] = _Progress(partition, {})
        progress.targets[target] = told
        self._told.move_to_end(prediction_id)
        if len(self._told) > MOST_TOLD:
            self._forgotten += self._forget(next(iter(self._told)))

    def _remember_stored(self, key: Key, record: Record) -> None:
        told = read(record.value, Told)
        if told is not None:
            self._remember(record.partition, key.target, key.prediction_id, told)
        elif (progress := self._told.get(key.prediction_id)) is not None:
            progress.targets.pop(key.target, None)

    def _forget(self, prediction_id: str) -> list[NewRecord]:
        """Forget how far a prediction was told; returns the records that say so."""
        progress = self._told.pop(prediction_id, None)
        if progress is None:
            return []
        return [
            encoded(told_key(target, prediction_id), None, progress.partition)
            for target in progress.targets
        ]

    # ---- outages ----

    async def _retried(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The operation's result; an outage of the log is waited out, until `stop`."""
        while True:
            try:
                return await operation()
            except LogError as error:
                if not error.retryable or self._stopping.is_set():
                    raise
                logger.warning("notifier.log_unavailable", error=str(error))
                await asyncio.sleep(_RETRY_LOG)


def _positions(since: Since) -> Mapping[int, int]:
    return {} if isinstance(since, str) else since
