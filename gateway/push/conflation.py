"""What a subscriber whose transport is full still has to get: the newest state of each prediction.

Pure. The queue exists only while the transport takes nothing. It keeps at most one change per
prediction. Beyond its bounds it keeps only ids and versions, and reads the bytes again when the
transport drains. So a subscriber that never reads costs a bounded amount of memory, and a terminal
state is never lost.
"""

from collections.abc import Callable
from itertools import islice

from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes, Kind
from tidings.gateway.push.hub import Render, RoutedChange
from tidings.streams.changes.codec import Change

MAX_RECORDS = 1_000
MAX_BYTES = 4 * 1024 * 1024

ENTRY = 256
"""Bytes that an id, a version and their places in the queue cost about."""


class ConflationQueue:
    """The newest pending change per prediction, behind the replies that wait.

    Args:
        render: How a change is written for this subscriber.
        max_records: Changes kept with their bytes.
        max_bytes: Sum of their records' bytes; beyond either bound ids and versions are kept.
        account: Counts what is held, in bytes; without room in its budget, too, ids are kept.
    """

    __slots__ = (
        "_account",
        "_bytes",
        "_max_bytes",
        "_max_records",
        "_pending",
        "_render",
        "_replies",
        "_spilled",
        "conflated",
    )

    def __init__(
        self,
        render: Render,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
        account: HeldAccount | None = None,
    ) -> None:
        self._account = HeldBytes().account() if account is None else account
        self._render = render
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._replies: list[bytes] = []
        self._pending: dict[str, RoutedChange] = {}
        self._spilled: dict[str, int] = {}
        self._bytes = 0
        self.conflated = 0
        """Changes that a newer one of the same prediction replaced before they were sent."""

    def __bool__(self) -> bool:
        """Whether anything still waits."""
        return bool(self._replies or self._pending or self._spilled)

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._replies) + len(self._pending) + len(self._spilled)

    def put_reply(self, message: bytes) -> None:
        """Keep a reply, rendered already: it goes out before the changes."""
        self._replies.append(message)

    def put(self, item: RoutedChange) -> bool:
        """Keep a change in place of an older one of its prediction; drop it if it is older.

        Returns:
            False if the budget has no room even for its id, and something of this owner's waits
            already: the subscriber has to start over.
        """
        change = item.change
        prediction_id = change.prediction_id
        there = self._pending.get(prediction_id)
        if there is not None:
            self.conflated += 1
            if there.change.version >= change.version + change.expired:
                return True
            self._drop(prediction_id)
        elif prediction_id in self._spilled:
            self.conflated += 1
            if self._spilled[prediction_id] >= change.version + change.expired:
                return True
            self._drop_spilled(prediction_id)
        size = len(change.value)
        if (
            len(self._pending) < self._max_records
            and self._bytes + size <= self._max_bytes
            and self._account.take(Kind.PENDING, size + ENTRY)
        ):
            self._pending[prediction_id] = item
            self._bytes += size
            return True
        if not self._account.take(Kind.PENDING, ENTRY):
            if not self._account.holds_alone:
                return False
            # What others hold must not cut off a subscriber that holds nothing.
            self._account.count(Kind.PENDING, ENTRY)
        self._spilled[prediction_id] = change.version
        return True

    def _drop(self, prediction_id: str) -> RoutedChange:
        item = self._pending.pop(prediction_id)
        self._bytes -= len(item.change.value)
        self._account.give_back(Kind.PENDING, len(item.change.value) + ENTRY)
        return item

    def _drop_spilled(self, prediction_id: str) -> None:
        del self._spilled[prediction_id]
        self._account.give_back(Kind.PENDING, ENTRY)

    def close(self) -> None:
        """Nothing waits any more; what was held is given back."""
        # A refill that is under way may still ask to restore or to forget: with what waited gone it
        # finds nothing, and gives back nothing that the closed account no longer counts.
        self._replies.clear()
        self._pending.clear()
        self._spilled.clear()
        self._bytes = 0
        self._account.close()

    def take(self, limit: int) -> bytes:
        """The next messages, about `limit` bytes, one at least; empty if only reads are left."""
        if self._replies:
            taken = b"".join(self._replies)
            self._replies.clear()
            return taken
        parts: list[bytes] = []
        size = 0
        while self._pending and size < limit:
            item = self._drop(next(iter(self._pending)))
            parts.append(item.rendered(self._render))
            size += len(parts[-1])
        return b"".join(parts)

    def missing(self, limit: int) -> dict[str, int]:
        """Predictions whose bytes must be read, with their version; to be given to `restore`."""
        return dict(islice(self._spilled.items(), limit))

    def restore(self, change: Change) -> bool:
        """Take the bytes of a prediction from `missing`.

        Left out if a newer change came while it was read. If the store was behind what was
        announced, the prediction stays missing: sent now, the older state would be the last one.

        Returns:
            Whether it waits to be sent.
        """
        version = self._spilled.get(change.prediction_id)
        if version is None or version > change.version:
            return False
        size = len(change.value)
        if self._pending and self._bytes + size > self._max_bytes:
            return True  # it stays missing, until what was read before is sent
        self._drop_spilled(change.prediction_id)
        self._pending[change.prediction_id] = RoutedChange(change)
        self._bytes += size
        # Counted in any case: one record at least must get through, or the queue would never drain.
        self._account.count(Kind.PENDING, size + ENTRY)
        return True

    def forget(self, prediction_id: str, version: int) -> None:
        """Stop waiting for a prediction's bytes, unless a later version is waited for by now."""
        if self._spilled.get(prediction_id, version + 1) <= version:
            self._drop_spilled(prediction_id)

    def retain(self, wanted: Callable[[Change], bool], by_id: Callable[[str], bool]) -> None:
        """Drop what is no longer wanted: after an unsubscription, or when a right was taken away.

        Args:
            wanted: Judges a change whose bytes are kept.
            by_id: Judges a prediction of which only id and version are kept.
        """
        for item in [item for item in self._pending.values() if not wanted(item.change)]:
            self._drop(item.change.prediction_id)
        for prediction_id in [one for one in self._spilled if not by_id(one)]:
            self._drop_spilled(prediction_id)
