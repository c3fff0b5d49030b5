"""What a subscriber whose transport is full still has to get: the newest state of each prediction.

Pure. The queue exists only while the transport takes nothing. It keeps at most one change per
prediction. Beyond its bounds it keeps ids and versions alone, and the bytes are read again when the
transport drains: a subscriber that never reads costs a bounded amount of memory, and a terminal
state is never lost.
"""

from collections.abc import Callable
from itertools import islice

from tidings.gateway.push.hub import Render, RoutedChange
from tidings.streams.changes.codec import Change

MAX_RECORDS = 1_000
MAX_BYTES = 4 * 1024 * 1024


class ConflationQueue:
    """The newest pending change per prediction, behind the replies that wait.

    Args:
        render: How a change is written for this subscriber.
        max_records: Changes kept with their bytes.
        max_bytes: Sum of their records' bytes; beyond either bound ids and versions are kept.
    """

    __slots__ = (
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
        self, render: Render, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES
    ) -> None:
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

    def put(self, item: RoutedChange) -> None:
        """Keep a change in place of an older one of its prediction; drop it where it is older."""
        change = item.change
        prediction_id = change.prediction_id
        there = self._pending.get(prediction_id)
        if there is not None:
            self.conflated += 1
            if there.change.version >= change.version:
                return
            del self._pending[prediction_id]
            self._bytes -= len(there.change.value)
        elif prediction_id in self._spilled:
            self.conflated += 1
            if self._spilled[prediction_id] >= change.version:
                return
            del self._spilled[prediction_id]
        if (
            len(self._pending) >= self._max_records
            or self._bytes + len(change.value) > self._max_bytes
        ):
            self._spilled[prediction_id] = change.version
        else:
            self._pending[prediction_id] = item
            self._bytes += len(change.value)

    def take(self, limit: int) -> bytes:
        """The next messages, about `limit` bytes, one at least; empty where only reads are left."""
        if self._replies:
            taken = b"".join(self._replies)
            self._replies.clear()
            return taken
        parts: list[bytes] = []
        size = 0
        while self._pending and size < limit:
            prediction_id = next(iter(self._pending))
            item = self._pending.pop(prediction_id)
            self._bytes -= len(item.change.value)
            parts.append(item.rendered(self._render))
            size += len(parts[-1])
        return b"".join(parts)

    def missing(self, limit: int) -> dict[str, int]:
        """Predictions whose bytes must be read, with their version; to be given to `restore`."""
        return dict(islice(self._spilled.items(), limit))

    def restore(self, change: Change) -> None:
        """Take the bytes of a prediction from `missing`.

        Left out where a newer change came while it was read. Where the store was behind what was
        announced, the prediction stays missing: sent now, the older state would be the last one.
        """
        version = self._spilled.get(change.prediction_id)
        if version is None or version > change.version:
            return
        del self._spilled[change.prediction_id]
        self._pending[change.prediction_id] = RoutedChange(change)
        self._bytes += len(change.value)

    def forget(self, prediction_id: str, version: int) -> None:
        """Stop waiting for a prediction's bytes, unless a later version is waited for by now."""
        if self._spilled.get(prediction_id, version + 1) <= version:
            del self._spilled[prediction_id]

    def retain(self, wanted: Callable[[Change], bool], by_id: Callable[[str], bool]) -> None:
        """Drop what is no longer wanted: after an unsubscription, or when a right was taken away.

        Args:
            wanted: Judges a change whose bytes are kept.
            by_id: Judges a prediction of which only id and version are kept.
        """
        for item in [item for item in self._pending.values() if not wanted(item.change)]:
            del self._pending[item.change.prediction_id]
            self._bytes -= len(item.change.value)
        for prediction_id in [one for one in self._spilled if not by_id(one)]:
            del self._spilled[prediction_id]
