"""Spans of sampled events, as they hang on what passes through the log."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.conditions import eventually
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import announcement, parse
from tidings.streams.log import traced as traced_log
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, EVENTS, LogUnavailable, NewRecord, Position
from tidings.streams.log.traced import TracedLog
from tidings.streams.processing.processor import Processor
from tidings.streams.rules.reducer import StorePolicy
from tidings.streams.support.tracing import sampled, trace_id, valid

PROCESS, WRITE, SEND = "process predictions.events", "write store", "send predictions.changes"


class FakeSpan:
    """A span that remembers what it was told."""

    def __init__(self, name: str, parent: bytes | None, number: int) -> None:
        self.name, self.parent = name, parent
        self.traceparent = b"00-%032x-%016x-01" % (1, number)
        self.ended: list[str | None] = []

    def end(self, at: int | None = None, *, failure: str | None = None) -> None:
        self.ended.append(failure)


class FakeTracing:
    """Keeps every span."""

    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    def chosen(self, incoming: str | None) -> bool:
        return incoming is not None

    def begin(self, name: str, kind: str, *, parent: bytes | None = None, **_: Any) -> FakeSpan:
        self.spans.append(FakeSpan(name, parent, len(self.spans) + 1))
        return self.spans[-1]

    def named(self, name: str) -> list[FakeSpan]:
        return [span for span in self.spans if span.name == name]


class MoodyLog(MemoryLog):
    """Refuses the first announcements."""

    refusals = 0

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        if topic == CHANGES and self.refusals:
            self.refusals -= 1
            raise LogUnavailable("away for a moment")
        return await super().append(topic, records)


def header(number: int, flags: str = "01") -> tuple[str, bytes]:
    return ("traceparent", f"00-{'a' * 32}-{number:016x}-{flags}".encode())


async def processed(log: MemoryLog, *records: NewRecord) -> tuple[FakeTracing, list[Any]]:
    """Let a processor with traces take these; gives the spans, and the changes."""
    tracing = FakeTracing()
    traced = TracedLog(log, tracing)
    cache = CachedStore(MemoryStore())
    processor = Processor(
        traced, cache, {}, StorePolicy(await log.identity()), reached=traced.reached
    )
    await log.append(EVENTS, records)
    running = asyncio.create_task(processor.run())
    await eventually(lambda: processor.statistics.records >= len(records), 20)
    await eventually(lambda: all(span.ended for span in tracing.spans) and not traced.under_way, 20)
    processor.stop()
    await running
    changes = []
    async for batch in log.follow(CHANGES, "beginning"):
        changes += [parse(record) for record in batch]
        if not batch:
            break
    return tracing, changes


async def test_a_sampled_event_gets_its_spans_and_carries_on_the_last() -> None:
    """Processing continues the event's trace, write and announcement hang on it, and the change carries the announcement's."""
    tracing, (change,) = await processed(
        MemoryLog(), NewRecord(b"p", b'{"status":"processing"}', [header(7)])
    )
    (process,), (write,), (send,) = (
        tracing.named(PROCESS),
        tracing.named(WRITE),
        tracing.named(SEND),
    )
    assert process.parent == header(7)[1]
    assert write.parent == send.parent == process.traceparent
    assert change.traceparent == send.traceparent.decode()
    assert [span.ended for span in tracing.spans] == [[None]] * 3


async def test_what_is_not_sampled_makes_no_span() -> None:
    """Events without the header, with another flag or with nonsense in it pass as they are, and so does their header."""
    records = [
        NewRecord(b"a", b'{"status":"processing"}'),
        NewRecord(b"b", b'{"status":"processing"}', [header(1, "00")]),
        NewRecord(b"c", b'{"status":"processing"}', [("traceparent", b"nonsense")]),
    ]
    tracing, changes = await processed(MemoryLog(), *records)
    assert tracing.spans == []
    assert [change.traceparent for change in changes] == [
        None,
        header(1, "00")[1].decode(),
        "nonsense",
    ]


async def test_an_announcement_tried_again_is_a_span_of_its_own() -> None:
    """An attempt that fails ends with the reason; the event is processed and written once."""
    log = MoodyLog()
    log.refusals = 2
    tracing, (change,) = await processed(
        log, NewRecord(b"p", b'{"status":"processing"}', [header(7)])
    )
    assert [span.ended for span in tracing.named(SEND)] == [
        ["away for a moment"],
        ["away for a moment"],
        [None],
    ]
    assert len(tracing.named(PROCESS)) == len(tracing.named(WRITE)) == 1
    assert change.traceparent == tracing.named(SEND)[-1].traceparent.decode()


async def test_events_without_a_change_of_their_own_end_too() -> None:
    """One that another of its batch takes along, one that says nothing, and one that is poison each get one span."""
    records = [
        NewRecord(b"p", b'{"status":"starting"}', [header(1)]),
        NewRecord(b"p", b'{"status":"processing"}', [header(2)]),
        NewRecord(b"p", b'{"status":"processing"}', [header(3)]),
        NewRecord(b"q", b"nonsense", [header(4)]),
    ]
    tracing, (change,) = await processed(MemoryLog(), *records)
    assert {span.parent: span.ended for span in tracing.named(PROCESS)} == {
        header(1)[1]: [None],
        header(2)[1]: [None],
        header(3)[1]: [None],
        header(4)[1]: ["not-json"],
    }
    assert len(tracing.named(SEND)) == 1
    assert change.traceparent == tracing.named(SEND)[0].traceparent.decode()


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events whose end is never heard of, as after a loss of partitions, are forgotten in the end."""
    monkeypatch.setattr(traced_log, "MOST", 10)
    log = MemoryLog()
    traced = TracedLog(log, FakeTracing())
    consumer = traced.consume(EVENTS, "g")
    for number in range(50):
        await log.append(EVENTS, [NewRecord(b"p", b"{}", [header(number + 1)])])
        await consumer.fetch(1, 0)
    assert traced.under_way <= 10
    await consumer.close()


def test_headers_that_can_be_continued_are_told_from_others() -> None:
    """As W3C Trace Context says: version ff, zeros and other lengths are no trace; the lowest bit is the sample."""
    good = f"00-{'a' * 32}-{'b' * 16}-01"
    assert valid(good)
    assert sampled(good.encode())
    assert sampled(good.encode()[:-2] + b"03")
    assert not sampled(good.encode()[:-2] + b"02")
    assert trace_id(good) == trace_id(good.encode()) == "a" * 32
    for bad in (
        f"ff{good[2:]}",
        good.replace("a", "0"),
        good.replace("b", "0"),
        good[:-1],
        good.upper(),
        "",
    ):
        assert not valid(bad)
        assert not sampled(bad.encode())
        assert trace_id(bad) is None
    assert trace_id(None) is None


def test_where_the_header_stands() -> None:
    """The announcement puts its trace last, where it is looked for."""
    record = Prediction(
        prediction_id="p",
        status=Status.STARTING,
        version=1,
        created_at=1,
        updated_at=1,
        owner="o",
        tags=("t",),
    )
    change = announcement(
        record, b"{}", position=Position(0, 1), expires_at=5, traceparent=header(1)[1]
    )
    assert change.headers[-1] == header(1)
