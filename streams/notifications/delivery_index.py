"""What waits to be told to other servers, for operators: read from the topic, whoever sends it."""

import asyncio
from collections import Counter

import msgspec
from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.streams.log.protocol import DELIVERIES, Log, Record
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.notifications.delivery import Delivery, SwitchedOff
from tidings.streams.notifications.records import key_of, read

KEPT = 100_000
"""Deliveries that are known one by one; of more it keeps the number by host."""


class PendingDelivery(Struct, frozen=True, rename="camel", gc=False):
    """A webhook that was not taken yet."""

    prediction_id: str
    host: str
    """Of the server; the rest of its address is nobody's business."""
    id: str
    """`webhook-id`."""
    type: str
    """Of the message, as `prediction.succeeded`."""
    attempts: int
    """Tries so far."""
    since: int
    """When it was due first, in ms."""
    due: int
    """When it is tried next, in ms; not after now: soon."""
    error: str | None = None
    """What came of the last try."""


class _Body(Struct):
    type: str = ""


class DeliveryIndex:
    """What waits and which addresses are switched off, read on from where the last look ended.

    Args:
        log: Where the deliveries lie.
        clock: Tells the time.
    """

    def __init__(self, log: Log, clock: Clock = SYSTEM_CLOCK) -> None:
        self._log, self._clock = log, clock
        self._next: dict[int, int] = {}
        self._pending: dict[bytes, PendingDelivery] = {}
        self._beyond: dict[bytes, str] = {}
        self._off: dict[str, SwitchedOff] = {}
        self._looking = asyncio.Lock()
        self._looked = float("-inf")

    async def refresh(self, *, within: float = 0.0) -> None:
        """Read what has come, unless that was done within so many seconds. Raises `LogError`."""
        async with self._looking:
            if self._clock.monotonic() - self._looked < within:
                return
            bounds = await self._log.bounds(DELIVERIES)
            if any(self._next.get(number, 0) > end for number, (_, end) in bounds.items()):
                self._next = {}  # the topic was made again
                self._pending, self._beyond, self._off = {}, {}, {}
            ends = {number: end for number, (_, end) in bounds.items()}
            start = {
                number: max(begin, self._next.get(number, 0))
                for number, (begin, _) in bounds.items()
            }
            async for batch in read_until_end(self._log, DELIVERIES, start=start, end=ends):
                for record in batch:
                    self._take(record)
            self._next = ends
            self._looked = self._clock.monotonic()

    @property
    def waiting(self) -> dict[str, int]:
        """How many wait, by host."""
        counts = Counter(one.host for one in self._pending.values())
        counts.update(self._beyond.values())
        return dict(counts.most_common())

    @property
    def switched_off(self) -> list[SwitchedOff]:
        """The addresses that are told nothing, the newest first."""
        return sorted(self._off.values(), key=lambda one: one.at, reverse=True)

    def newest(self, limit: int, prediction_id: str | None = None) -> list[PendingDelivery]:
        """What waits, of one prediction or of all, what was due last first."""
        found = [
            one for one in self._pending.values() if prediction_id in (None, one.prediction_id)
        ]
        return sorted(found, key=lambda one: (one.since, one.id), reverse=True)[:limit]

    def _take(self, record: Record) -> None:
        key = key_of(record)
        if key is None or record.key is None:
            return
        if key.kind == "a":
            self._off.pop(key.target, None)
            if (off := read(record.value, SwitchedOff)) is not None:
                self._off[key.target] = off
        elif key.kind == "d":
            self._pending.pop(record.key, None)
            self._beyond.pop(record.key, None)
            if (delivery := read(record.value, Delivery)) is None:
                return
            if len(self._pending) >= KEPT:
                self._beyond[record.key] = delivery.address.host
                return
            self._pending[record.key] = PendingDelivery(
                delivery.prediction_id,
                delivery.address.host,
                delivery.message_id,
                msgspec.json.decode(delivery.body, type=_Body).type,
                delivery.attempts,
                delivery.since,
                delivery.due,
                delivery.error,
            )
