"""The bodies that a record was made from, read back from the events: they are no part of the record.

Only the positions that the record names are read, never the topic: what a request costs does not grow with the log.
"""

import asyncio

from msgspec import Struct

from tidings.storage.prediction import Prediction
from tidings.streams.log.headers import DELIVERY_HEADER, PROVIDER_HEADER
from tidings.streams.log.protocol import EVENTS, Log, Position, Record

WAIT = 5.0
"""Seconds for all of a record's positions."""


class RawReport(Struct, frozen=True, gc=False):
    """An event as it came."""

    position: Position
    timestamp: int
    """When it was appended, in ms."""
    provider: str | None
    """Whose webhook it is; None: an event in our own form."""
    delivery: str | None
    """The provider's id of the delivery."""
    body: bytes


def positions_of(record: Prediction) -> list[Position]:
    """The events that the record names: those of its transitions, and per partition the last one applied."""
    found = {
        Position.parse(transition.position): None
        for transition in record.transitions
        if transition.position is not None
    }
    if record.source is not None:
        for partition, offset in record.source.offsets.items():
            found[Position(int(partition), offset)] = None
    return sorted(found)


async def read_raw_reports(log: Log, record: Prediction) -> list[RawReport]:
    """The events that the record names, in the order of each partition; those that the log no longer keeps are left out.

    Args:
        log: The one that the record comes from.
        record: As it stands.

    Raises:
        LogError: The log does not give them.
        TimeoutError: It took over `WAIT` seconds.
    """
    bounds = await log.bounds(EVENTS)
    kept = [
        position
        for position in positions_of(record)
        if position.partition in bounds
        and bounds[position.partition][0] <= position.offset < bounds[position.partition][1]
    ]
    found = []
    async with asyncio.timeout(WAIT):
        for position in kept:
            events = await log.read_at(EVENTS, {position.partition: position.offset})
            event = events.get(position.partition)  # none if compaction has left a gap
            if event is not None and event.value:
                found.append(_report(event))
    return found


def _report(record: Record) -> RawReport:
    headers = {name.lower(): value or b"" for name, value in record.headers}
    provider, delivery = headers.get(PROVIDER_HEADER), headers.get(DELIVERY_HEADER)
    return RawReport(
        position=Position(record.partition, record.offset),
        timestamp=record.timestamp,
        provider=provider.decode("utf-8", "replace") if provider is not None else None,
        delivery=delivery.decode("utf-8", "replace") if delivery else None,
        body=record.value or b"",
    )
