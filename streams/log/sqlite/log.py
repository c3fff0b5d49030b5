"""The embedded log: one SQLite file, one partition, any number of processes that append and read."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

from tidings.storage.loggers import get_logger
from tidings.storage.resilience.futures import settle
from tidings.streams.log.factory import LogOptions
from tidings.streams.log.notifier import Notifier
from tidings.streams.log.protocol import (
    CHANGES,
    TEXT,
    LogError,
    LogMisconfigured,
    LogUnavailable,
    NewRecord,
    Position,
    Record,
    Since,
    StoredRecord,
    Told,
)
from tidings.streams.log.size_limits import measure
from tidings.streams.log.sqlite.consumer import BATCH, SqliteConsumer
from tidings.streams.log.sqlite.recent import RecentRecords
from tidings.streams.log.sqlite.retention import Retention
from tidings.streams.log.sqlite.schema import (
    GroupLock,
    Translating,
    connect,
    open_file,
    stored,
    table,
    translate,
)
from tidings.streams.log.sqlite.transaction import Transaction, end_offset
from tidings.streams.log.sqlite.writer import LogWriter

logger = get_logger(__name__)

_REPEATABLE = frozenset({CHANGES, TEXT})
"""Topics whose newest records the processor announces again if a power cut has taken them."""
_TRIM_SECONDS = 60.0
_BATCH_BYTES = 1_048_576
"""Bytes after which a read ends early."""
_UNKNOWN = -1
"""No version of the file: the next look finds it changed."""
_POLL_FASTEST, _POLL_SLOWEST = 0.002, 0.025
"""Seconds between looks at the file for what other processes wrote: just after a change, and at rest."""
_POLL_ALONE, _COMPANY_SECONDS = 0.1, 3600.0
"""The same if no other process has appended yet, or for so long. Forty looks a second cost half a
per cent of a core, a twentieth of what a hundred events a second cost."""


class SqliteLog:
    """A `Log` in an SQLite file; made by `SqliteLog.open`.

    Appends return after an fsync, except those to the changes and text topics and committed
    offsets. If a power cut takes these, it takes them from the end of the file, the offsets last,
    and the processor announces again.
    """

    name = "sqlite"

    def __init__(
        self, path: Path, writing: sqlite3.Connection, identity: str, options: LogOptions
    ) -> None:
        self._path = path
        self._identity = f"sqlite:{identity}"
        self._max_body = options.max_body
        self._options = options
        self._translating = Translating(path)
        self._reading = connect(path)
        self._writer = LogWriter(writing, path)
        self._numbers: dict[str, int] = {}
        self._notifiers: dict[str, Notifier] = {}
        self._ends: dict[str, int] = {}
        """Per topic the end that its readers were woken for."""
        self._recent: dict[str, RecentRecords] = {}
        """Per topic what this process appended last."""
        self._appending: dict[str, int] = {}
        """Per topic how many appends of our own are under way."""
        self._consumers: list[SqliteConsumer] = []
        self._maintenance: asyncio.Task[None] | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self._poll_interval = _POLL_FASTEST
        self._others_at = float("-inf")
        """When another process was seen to have appended last."""
        self._data_version = self._look()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, options: LogOptions) -> "SqliteLog":
        """Open the file, making it and its folder if there is none.

        Raises `LogMisconfigured` for a foreign file and `LogUnavailable` if it is locked for too long.
        """
        connection, identity = await asyncio.to_thread(
            partial(open_file, path, create=options.create)
        )
        return cls(path, connection, identity, options)

    async def identity(self) -> str:
        """See `Log.identity`."""
        return self._identity

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """See `Log.append`."""
        if not records:
            return []
        done: asyncio.Future[Sequence[Position]] = asyncio.get_running_loop().create_future()
        self.submit(topic, records, partial(settle, done))
        return list(await done)

    def submit(self, topic: str, records: Sequence[NewRecord], told: Told) -> None:
        """See `Submit`."""
        size = measure(records, self._max_body)
        for record in records:
            if record.partition:
                raise LogError("an SQLite log has partition 0 alone; leave the partition out")
        number = self._numbers.get(topic) or self._known(topic)
        self._appending[topic] = self._appending.get(topic, 0) + 1
        self._writer.put(
            # Without a number the topic is made by the same transaction: two might take twice the
            # limit.
            methodcaller("append", topic if number is None else number, records),
            partial(self._appended, topic, records, told),
            durable=topic not in _REPEATABLE,
            size=size + 100 * len(records),
            quick=True,
        )

    def _appended(self, topic: str, records: Sequence[NewRecord], told: Told, result: Any) -> None:
        """The writer has committed these records, or failed."""
        self._appending[topic] -= 1
        if isinstance(result, LogError):
            self._data_version = _UNKNOWN  # nobody knows what became of it: the next look will tell
            told(result)
            return
        first, now = result
        end = first + len(records)
        if end > self._ends.get(topic, 0):
            self._ends[topic] = end
        recent = self._recent.get(topic)
        if recent is None:
            recent = self._recent[topic] = RecentRecords(topic)
        recent.extend(first, now, records)
        if (notifier := self._notifiers.get(topic)) is not None:
            notifier.notify()
        told([Position(0, offset) for offset in range(first, end)])

    async def remember(self, topic: str, group: str, offset: int) -> None:
        """Keep the next offset that a group will read."""

        def write(transaction: Transaction) -> None:
            transaction.connection.execute(
                "REPLACE INTO positions VALUES (?, ?, ?)", (topic, group, offset)
            )

        await self._writer.submit(write, durable=False, size=100, quick=True)

    def consume(self, topic: str, group: str, gather: float = 0.0) -> SqliteConsumer:  # noqa: ARG002 - it costs nothing to be woken
        """See `Log.consume`. Raises `LogMisconfigured` if the group is being consumed already, by whomever."""
        if self._closed:
            raise LogUnavailable(f"the log {self._path} is closed; open it again")
        lock = GroupLock(self._path, f"{group}.{topic}")
        consumer = SqliteConsumer(
            self,
            topic,
            group,
            position=self._committed(topic, group) or 0,
            notifier=self.notifier(topic),
            lock=lock,
            on_close=self._consumers.remove,
        )
        self._consumers.append(consumer)
        if self._maintenance is None:
            self._maintenance = asyncio.get_running_loop().create_task(self._maintain())
        return consumer

    async def _maintain(self) -> None:
        """Trim once a minute: whoever consumes does it, as long as it lives."""
        while True:
            await asyncio.sleep(_TRIM_SECONDS)
            try:
                if removed := await self.trim(time.time_ns() // 1_000_000):
                    logger.info("log.trimmed", file=str(self._path), records=removed)
            except LogError as error:
                logger.warning("log.trim.failed", file=str(self._path), error=str(error))

    async def trim(self, now: int) -> int:
        """Remove what is older (in ms) than its topic is kept, and changes that newer ones replaced; how many.

        In small transactions, so that appends hardly wait. Raises `LogUnavailable`.
        """
        with self._translating:
            return await Retention(self._path, self._writer, self._options).run(self._known, now)

    async def follow(
        self, topic: str, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """See `Log.follow`."""
        end = None if until is None else until.get(0, 0)
        if since == "end":
            position = (await self.bounds(topic))[0][1]
        else:
            position = 0 if since == "beginning" else since.get(0, 0)
        notifier = self.notifier(topic)
        while end is None or position < end:
            seen = notifier.sequence
            if end is None:
                records, more = self.read_on(topic, position, BATCH)
            else:
                records, more = self.read(topic, position, min(BATCH, end - position))
            if records:
                position = records[-1].offset + 1
                if end is not None and position > end:  # behind a gap
                    records = [record for record in records if record.offset < end]
                yield records
            if more:
                await asyncio.sleep(0)
            elif end is not None and (await self.bounds(topic))[0][1] >= end:
                return  # compaction took the last ones
            else:
                yield ()
                await self.changed(notifier, seen, None)

    async def partitions(self, topic: str) -> int:  # noqa: ARG002 - the same for each
        """See `Log.partitions`."""
        return 1

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """See `Log.bounds`."""
        number = self._known(topic)
        if number is None:
            return {0: (0, 0)}
        with self._translating:
            end = end_offset(self._reading, number)
            (first,) = self._reading.execute(f"SELECT min(offset) FROM {table(number)}").fetchone()  # noqa: S608
        return {0: (end if first is None else first, end)}

    async def offsets_at(self, topic: str, timestamp: int) -> dict[int, int]:
        """See `Log.offsets_at`."""
        end = (await self.bounds(topic))[0][1]
        number = self._known(topic)

        def find() -> int:
            connection = connect(self._path)
            try:
                statement = f"SELECT offset FROM {table(number or 0)} WHERE timestamp >= ? ORDER BY offset LIMIT 1"  # noqa: S608
                row = connection.execute(statement, (timestamp,)).fetchone()
                return int(row[0]) if row else end
            finally:
                connection.close()

        if number is None:
            return {0: 0}
        with self._translating:
            return {0: await asyncio.to_thread(find)}

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """See `Log.committed`."""
        offset = self._committed(topic, group)
        return {} if offset is None else {0: offset}

    def _committed(self, topic: str, group: str) -> int | None:
        with self._translating:
            statement = "SELECT next FROM positions WHERE topic = ? AND member = ?"
            row = self._reading.execute(statement, (topic, group)).fetchone()
        return int(row[0]) if row else None

    def read_on(self, topic: str, position: int, limit: int) -> tuple[Sequence[StoredRecord], bool]:
        """As `read`, for a reader that waits for what comes: from memory if it is at the end.

        If the end that was told last is that of our own records, there is nothing behind it. As
        soon as another process has appended, a look at the file (`_poll`) moves the end and tells
        the reader.
        """
        recent = self._recent.get(topic)
        if recent is not None:
            if records := recent.read(position, limit):
                return records, len(records) == limit
            if position == recent.end == self._ends[topic]:
                return (), False
        return self.read(topic, position, limit)

    def read(self, topic: str, position: int, limit: int) -> tuple[list[StoredRecord], bool]:
        """Records from `position` on, and whether there may be more."""
        number = self._numbers.get(topic) or self._known(topic)
        if number is None:
            return [], False
        records: list[StoredRecord] = []
        size = 0
        try:
            statement = f"SELECT * FROM {table(number)} WHERE offset >= ? ORDER BY offset LIMIT ?"  # noqa: S608
            rows = self._reading.execute(statement, (position, limit))
            for row in rows:
                records.append(stored(topic, row))
                size += len(row[4] or b"")
                if size > _BATCH_BYTES:
                    rows.close()  # ends the read transaction
                    return records, True
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        return records, len(records) == limit

    async def changed(self, notifier: Notifier, seen: int, seconds: float | None) -> None:
        """Wait until somebody, in whatever process, may have appended; at most `seconds`.

        Raises `LogUnavailable` once the log is closed.
        """
        if self._poll_timer is None and not self._closed:
            self._poll_timer = asyncio.get_running_loop().call_later(
                self._poll_interval, self._poll
            )
        await notifier.wait(seen, seconds)
        if self._closed:
            raise LogUnavailable(f"the log {self._path} is closed; open it again")

    def notifier(self, topic: str) -> Notifier:
        """Notified when the topic may have grown."""
        notifier = self._notifiers.get(topic)
        if notifier is None:
            notifier = self._notifiers[topic] = Notifier()
        return notifier

    def _notify_all(self) -> None:
        for notifier in self._notifiers.values():
            notifier.notify()

    def _poll(self) -> None:
        """Look whether another process appended; goes on for as long as somebody waits."""
        self._poll_timer = None
        if self._closed:
            return
        grown = False
        try:
            version = self._look()
            if version != self._data_version:
                grown = self._notify_where_grown()
                self._data_version = version
        except (sqlite3.Error, LogError) as error:
            logger.debug(
                "log.look.failed", file=str(self._path), error=str(error)
            )  # as locked as can be: the next will tell
        now = time.monotonic()
        if grown:
            self._others_at = now
        slowest = _POLL_SLOWEST if now - self._others_at < _COMPANY_SECONDS else _POLL_ALONE
        self._poll_interval = _POLL_FASTEST if grown else min(self._poll_interval * 1.1, slowest)
        if any(self._notifiers.values()):
            self._poll_timer = asyncio.get_running_loop().call_later(
                self._poll_interval, self._poll
            )

    def _notify_where_grown(self) -> bool:
        """Wake the readers of topics with news: most changes of the file are our own, told already."""
        grown = False
        for topic, notifier in self._notifiers.items():
            number = self._known(topic)
            end = 0 if number is None else end_offset(self._reading, number)
            # One that is being appended to notifies in a moment.
            if end != self._ends.get(topic, 0) and not self._appending.get(topic):
                self._ends[topic] = end
                notifier.notify()
                grown = True
        return grown

    def _look(self) -> int:
        (version,) = self._reading.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _known(self, topic: str) -> int | None:
        """The number of a topic that exists."""
        number = self._numbers.get(topic)
        if number is None:
            with self._translating:
                row = self._reading.execute(
                    "SELECT number FROM topics WHERE name = ?", (topic,)
                ).fetchone()
            if row is not None:
                number = self._numbers[topic] = row[0]
        return number

    async def read_at(self, topic: str, offsets: Mapping[int, int]) -> dict[int, Record]:
        """See `Log.read_at`."""
        if (offset := offsets.get(0)) is None:
            return {}
        records, _ = self.read(topic, offset, 1)
        return {0: records[0]} if records and records[0].offset == offset else {}

    def obstacle(self) -> str | None:
        """See `Log.obstacle`."""
        return None

    async def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        for consumer in tuple(self._consumers):
            await consumer.close()
        if self._maintenance is not None:
            self._maintenance.cancel()
            await asyncio.wait([self._maintenance])
        await self._writer.close()
        self._closed = True
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        self._notify_all()
        self._reading.close()


async def open_sqlite(url: SplitResult, options: LogOptions) -> SqliteLog:
    """Open `sqlite:///relative/file` or `sqlite:////absolute/file`."""
    if url.netloc or url.query or not url.path.strip("/"):
        raise LogMisconfigured(
            f"log URL {url.geturl()!r} names no file: write sqlite:///data/log.db (relative to the working folder) or "
            "sqlite:////var/lib/tidings/log.db"
        )
    return await SqliteLog.open(Path(unquote(url.path[1:])), options)
