"""The bodies that a record was made from, read back from the events: they are no part of the record.

Only the positions that the record names are read, never the topic: what a request costs does not grow with the log.
"""

import asyncio
from collections.abc import Iterable

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
    ends = {partition: end for partition, (_, end) in bounds.items()}
    found = []
    async with asyncio.timeout(WAIT):
        for position in kept:
            event = await _at(log, position, ends)
            if event is not None and event.value:
                found.append(_report(event))
    return found


async def _at(log: Log, position: Position, ends: dict[int, int]) -> Record | None:
    """The record at a position; None where a transaction's marker lies there, or compaction has left a gap."""
    since = {**ends, position.partition: position.offset}
    async for records in log.follow(EVENTS, since):
        for record in _of(records, position.partition):
            return record if record.offset == position.offset else None
        if not records:
            return None
    return None


def _of(records: Iterable[Record], partition: int) -> Iterable[Record]:
    return (record for record in records if record.partition == partition)


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
