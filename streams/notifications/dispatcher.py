"""Tries deliveries until they are taken or given up, each address at its own pace.

Of one prediction at one address only the oldest delivery is tried, so a server hears of the steps
in order. An address has its own queue, its own number of requests at once and its own failures (see
`pace.py`): one that hangs holds one connection and nobody else's time.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.log.log_fields import fields
from tidings.streams.log.protocol import (
    DEAD_LETTERS,
    DELIVERIES,
    Log,
    LogError,
    NewRecord,
    Position,
    Record,
    StoredRecord,
)
from tidings.streams.notifications.address import AddressBook, BadAddress, Sealed
from tidings.streams.notifications.delivery import (
    Delivery,
    SwitchedOff,
    Waiting,
    encoded,
    switched_off_record,
)
from tidings.streams.notifications.pace import AddressPace
from tidings.streams.notifications.records import read
from tidings.streams.notifications.sender import Sent
from tidings.streams.processing.dead_letters import dead_letter

PERIOD = 24 * 3600.0
"""Seconds for which a delivery is tried."""
SCHEDULE = Backoff((5, 30, 120, 600, 1800, 3600, 7200), jitter=0.2)
"""Seconds between tries, much as Standard Webhooks recommends."""
AT_ONCE = 8
"""Requests to one address at once; one while it fails, or is not known."""
MOST_AT_ONCE = 512
"""Requests to all addresses together."""
MOST_DOUBTFUL = 256
"""Of these to addresses that fail or are not known. A request may take 15 s: with as many of these as
there are places, hundreds of dead addresses would hold up all others."""
MOST_WAITING = 100_000
"""Deliveries that wait for one address; further ones become dead letters."""
MOST_IDLE = 10_000
"""Addresses that nothing waits for, of which it is remembered what they have shown."""
BODIES = 64 * 1024 * 1024
"""Bytes of bodies in memory; those of further deliveries are read again when they are sent."""
_RETRY_LOG = 0.5

logger = get_logger(__name__)

Send = Callable[[str, str, bytes], Awaitable[Sent]]


class _Lane:
    """The deliveries of one prediction to one address, the oldest first."""

    __slots__ = ("address", "key", "queue", "timer")

    def __init__(self, key: tuple[str, str], address: "AddressPace[_Lane]") -> None:
        self.key, self.address = key, address
        self.queue: deque[Waiting] = deque()
        self.timer: asyncio.TimerHandle | None = None


_Address: TypeAlias = AddressPace[_Lane]


class Dispatcher:
    """Holds what is not sent yet, and sends it.

    Args:
        log: Where the deliveries and the dead letters lie.
        send: Posts a body once: the address, the message's id and the body.
        book: Opens addresses.
        at_once: Requests to one address at once.
        schedule: Waits between tries, in seconds.
        period: Seconds for which a delivery is tried.
    """

    def __init__(
        self,
        log: Log,
        send: Send,
        book: AddressBook,
        *,
        at_once: int = AT_ONCE,
        schedule: Backoff = SCHEDULE,
        period: float = PERIOD,
    ) -> None:
        self._log, self._send, self._book = log, send, book
        self._at_once, self._schedule, self._period = at_once, schedule, period
        self._addresses: dict[str, _Address] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        """Addresses that nothing waits for, the one that was busy last at the end."""
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._targets: dict[str, set[str]] = {}
        """By prediction: the targets that something waits for."""
        self._held = 0
        self._tasks: dict[asyncio.Task[None], bool] = {}
        """Tries under way, and whether each holds one of the places for doubtful addresses."""
        self._doubtful = 0
        self.reached: Callable[[int], None] = lambda _: None
        """Told of the notifier's steps 5 and 6."""
        self._queued: dict[bool, deque[_Address]] = {True: deque(), False: deque()}
        """Addresses that would send and wait for a place among all: the doubtful, the others."""
        self.delivered = 0
        self.failed = 0
        """Tries that failed."""
        self.given_up = 0
        """Deliveries that became dead letters."""

    @property
    def waiting(self) -> int:
        """Deliveries that are not taken yet."""
        return sum(address.waiting for address in self._addresses.values())

    @property
    def switched_off(self) -> dict[str, SwitchedOff]:
        """The addresses that nothing is sent to, by target."""
        return {name: one.off for name, one in self._addresses.items() if one.off is not None}

    # ---- what waits ----

    def add(self, waiting: Waiting) -> None:
        """Send this when it is due, after what waits for the same prediction and address."""
        address = self._address(waiting.target)
        key = (waiting.target, waiting.prediction_id)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key, address)
            self._targets.setdefault(waiting.prediction_id, set()).add(waiting.target)
        self._hold(waiting)
        lane.queue.append(waiting)
        address.waiting += 1
        if len(lane.queue) == 1:
            self._schedule_lane(lane)

    def switch(self, target: str, off: SwitchedOff | None) -> None:
        """Send nothing to an address any more, or again."""
        address = self._address(target)
        address.switch(off)
        # What waits is due at once: it is sent, or given up.
        for lane in [lane for lane in self._lanes.values() if lane.address is address]:
            if lane.timer is not None:
                lane.timer.cancel()
                self._ready(lane)
        self._start(address)

    def full(self, target: str) -> bool:
        """Whether no more may wait for this address."""
        address = self._addresses.get(target)
        return address is not None and address.waiting >= MOST_WAITING

    def forget(self, prediction_id: str) -> list[NewRecord]:
        """Send nothing more of a prediction that is deleted; returns the records that say so."""
        gone: list[NewRecord] = []
        for target in list(self._targets.get(prediction_id, ())):
            lane = self._lanes[target, prediction_id]
            while lane.queue:
                gone.append(self._removal(self._drop(lane)))
            self._close(lane)
        return gone

    def clear(self) -> None:
        """Forget everything; what is under way ends unheard."""
        for task in self._tasks:
            task.cancel()
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()
        for address in self._addresses.values():
            if address.timer is not None:
                address.timer.cancel()
        self._tasks.clear()
        self._lanes.clear()
        self._targets.clear()
        self._addresses.clear()
        self._idle.clear()
        for queued in self._queued.values():
            queued.clear()
        self._held = self._doubtful = 0

    def _address(self, target: str) -> _Address:
        address = self._addresses.get(target)
        if address is None:
            address = self._addresses[target] = AddressPace()
        self._idle.pop(target, None)
        return address

    def _hold(self, waiting: Waiting) -> None:
        if waiting.delivery is not None:
            size = len(waiting.delivery.body)
            if self._held + size > BODIES:
                waiting.delivery = None
            else:
                self._held += size

    def _drop(self, lane: _Lane) -> Waiting:
        waiting = lane.queue.popleft()
        lane.address.waiting -= 1
        if waiting.delivery is not None:
            self._held -= len(waiting.delivery.body)
        return waiting

    def _close(self, lane: _Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
        target, prediction_id = lane.key
        if self._lanes.pop(lane.key, None) is not None:
            targets = self._targets[prediction_id]
            targets.discard(target)
            if not targets:
                del self._targets[prediction_id]
        if lane.address.idle and self._addresses.get(target) is lane.address:
            # What it has shown is remembered, but not of every address that ever was.
            self._idle[target] = None
            self._idle.move_to_end(target)
            if len(self._idle) > MOST_IDLE:
                oldest, _ = self._idle.popitem(last=False)
                del self._addresses[oldest]

    # ---- when ----

    def _schedule_lane(self, lane: _Lane) -> None:
        wait = lane.queue[0].due / 1000 - time.time()
        if wait <= 0 or lane.address.off is not None:
            self._ready(lane)
        else:
            lane.timer = asyncio.get_running_loop().call_later(wait, self._ready, lane)

    def _ready(self, lane: _Lane) -> None:
        lane.timer = None
        lane.address.ready.append(lane)
        self._start(lane.address)

    def _room(self, doubtful: bool) -> bool:
        return len(self._tasks) < MOST_AT_ONCE and not (
            doubtful and self._doubtful >= MOST_DOUBTFUL
        )

    def _start(self, address: _Address) -> None:
        if address.timer is not None:
            address.timer.cancel()
            address.timer = None
        pause = address.not_before - time.time()
        if pause > 0:
            if address.ready:
                address.timer = asyncio.get_running_loop().call_later(pause, self._start, address)
            return
        while address.ready and address.running < address.limit(self._at_once):
            doubtful = not address.proven
            if not self._room(doubtful):
                if not any(address in queued for queued in self._queued.values()):
                    self._queued[doubtful].append(address)
                return
            lane = address.ready.popleft()
            if not lane.queue:
                continue
            address.running += 1
            task = asyncio.create_task(self._attempt(lane), name="webhook")
            self._tasks[task] = doubtful
            self._doubtful += doubtful
            task.add_done_callback(lambda done, lane=lane: self._ended(lane, done))  # type: ignore[misc]

    def _ended(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        doubtful = self._tasks.pop(task, None)
        if doubtful is None:
            return  # forgotten meanwhile
        self._doubtful -= doubtful
        address = lane.address
        address.running -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("notifier.defect", exc_info=error)
            if lane.queue:
                lane.queue[0].due = int(time.time() * 1000 + self._schedule.longest * 1000)
        if lane.queue:
            self._schedule_lane(lane)
        elif self._lanes.get(lane.key) is lane:
            self._close(lane)
        self._start(address)
        for kind, queued in self._queued.items():
            while queued and self._room(kind):
                self._start(queued.popleft())

    # ---- one try ----

    async def _attempt(self, lane: _Lane) -> None:
        waiting = lane.queue[0]
        delivery = waiting.delivery or await self._read(waiting)
        if delivery is None:  # deleted meanwhile
            self._done(lane, waiting)
            return
        address = lane.address
        if address.off is not None:
            await self._give_up(lane, waiting, delivery, "webhook-off", address.off.reason)
            return
        try:
            url = self._book.open(delivery.address)
        except BadAddress as error:
            await self._give_up(lane, waiting, delivery, "webhook-unreadable", str(error))
            return
        sent = await self._send(url, delivery.message_id, bytes(delivery.body))
        self.reached(5)
        if sent.error is None:
            self.delivered += 1
            address.succeeded(time.time())
            # A crash before this stands sends it again, with the same id.
            await self._append(DELIVERIES, [self._removal(waiting)])
            self._done(lane, waiting)
        else:
            await self._failed(lane, waiting, delivery, sent, sent.error)
        self.reached(6)

    async def _failed(
        self, lane: _Lane, waiting: Waiting, delivery: Delivery, sent: Sent, error: str
    ) -> None:
        address, now = lane.address, time.time()
        self.failed += 1
        address.failed(now, sent.retry_after)
        host = delivery.address.host
        over = now - waiting.since / 1000 >= self._period
        if sent.final or (over and address.hopeless_since(waiting.since / 1000)):
            reason = error if sent.final else f"for {self._period / 3600:g} h: {error}"
            await self._switch_off(waiting, delivery.address, reason)
        if sent.final or over:
            await self._give_up(lane, waiting, delivery, "webhook-undelivered", error)
            return
        if not self._stands(lane, waiting):
            return  # deleted while it was under way: nothing may bring it back
        wait = self._schedule.wait(waiting.attempts + 1)
        if sent.retry_after is not None:
            wait = sent.retry_after
        later = replace(
            delivery,
            attempts=waiting.attempts + 1,
            due=int((now + wait) * 1000),
            since=waiting.since,
            error=error,
        )
        logger.info(
            "notifier.later", host=host, attempts=later.attempts, wait=wait, reason=error,
            **fields(waiting.prediction_id, None),
        )  # fmt: skip
        (position,) = await self._append(
            DELIVERIES, [encoded(waiting.key, later, waiting.position.partition)]
        )
        waiting.attempts, waiting.due, waiting.position = later.attempts, later.due, position

    async def _switch_off(self, waiting: Waiting, address: Sealed, reason: str) -> None:
        off = SwitchedOff(address.host, int(time.time() * 1000), reason)
        logger.warning("notifier.address_switched_off", host=address.host, reason=reason)
        await self._append(DELIVERIES, [switched_off_record(waiting.target, off)])
        self.switch(waiting.target, off)

    async def _give_up(
        self, lane: _Lane, waiting: Waiting, delivery: Delivery, code: str, reason: str
    ) -> None:
        if self._stands(lane, waiting):  # else it was deleted while it was under way
            await self.bury(waiting, delivery, code, f"{delivery.address.host}: {reason}")
            self._done(lane, waiting)

    async def bury(self, waiting: Waiting, delivery: Delivery, code: str, reason: str) -> None:
        """Make a delivery a dead letter, which can be redriven, and remove it."""
        self.given_up += 1
        logger.warning(
            "notifier.given_up", code=code, reason=reason, **fields(waiting.prediction_id, None)
        )
        headers = [("tidings-attempt", b"%d" % waiting.redriven)] if waiting.redriven else []
        where, value = waiting.position, msgspec.json.encode(delivery)
        record = StoredRecord(
            DELIVERIES, where.partition, where.offset, waiting.since, waiting.key, value, headers
        )
        await self._append(DEAD_LETTERS, [dead_letter(record, code, reason, waiting.prediction_id)])
        await self._append(DELIVERIES, [self._removal(waiting)])

    def _stands(self, lane: _Lane, waiting: Waiting) -> bool:
        return bool(lane.queue) and lane.queue[0] is waiting

    def _done(self, lane: _Lane, waiting: Waiting) -> None:
        if self._stands(lane, waiting):
            self._drop(lane)

    def _removal(self, waiting: Waiting) -> NewRecord:
        return encoded(waiting.key, None, waiting.position.partition)

    async def _read(self, waiting: Waiting) -> Delivery | None:
        """The delivery as it lies in the log; None if it is there no more."""
        while True:
            try:
                where = waiting.position
                found: Record | None = (
                    await self._log.read_at(DELIVERIES, {where.partition: where.offset})
                ).get(where.partition)
                return None if found is None else read(found.value, Delivery)
            except LogError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(_RETRY_LOG)

    async def _append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """Append; an outage of the log is waited out, as a repeat is harmless."""
        while True:
            try:
                return await self._log.append(topic, records)
            except LogError as error:
                if not error.retryable:
                    raise
                logger.warning("notifier.log_unavailable", error=str(error))
                await asyncio.sleep(_RETRY_LOG)
