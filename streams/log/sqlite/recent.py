"""The records that this process appended last, so that its readers need not ask the file for them."""

from collections.abc import Sequence

from tidings.streams.log.protocol import NewRecord, StoredRecord

MOST_RECORDS = 1_000
MOST_BYTES = 1_048_576
"""What is kept of a topic: its readers in this process are rarely further behind, and read the file then."""


class RecentRecords:
    """The end of one topic: records in a row, without a gap, each as the file has it.

    Another process may append, too; what it appends is not here, and a record of ours behind it begins a new row.
    """

    __slots__ = ("_first", "_records", "_size", "_topic")

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._first = 0
        self._records: list[StoredRecord] = []
        self._size = 0

    @property
    def end(self) -> int:
        """The offset behind the last one; 0: there is none."""
        return self._first + len(self._records)

    def extend(self, first: int, timestamp: int, records: Sequence[NewRecord]) -> None:
        """These were appended, from this offset on."""
        size = sum([len(new.value or b"") for new in records])
        full = self._size + size > MOST_BYTES or len(self._records) + len(records) > MOST_RECORDS
        if full or first != self.end:
            self._records, self._size = [], 0
            self._first = first
        if size > MOST_BYTES or len(records) > MOST_RECORDS:
            self._first = first + len(records)
            return
        self._size += size
        self._records += [
            StoredRecord(self._topic, 0, offset, timestamp, new.key, new.value, tuple(new.headers))
            for offset, new in enumerate(records, first)
        ]

    def read(self, position: int, limit: int) -> list[StoredRecord]:
        """At most so many records from this offset on; none if it is not here."""
        start = position - self._first
        return self._records[start : start + limit] if start >= 0 else []
