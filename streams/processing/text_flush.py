"""When the record of a growing text is written, and what is announced of it in between.

Writing the record for every piece would write the whole text for every word. So if only its text
has grown, a prediction is written once `flush` has passed since the last write *and* the text has
grown by an eighth, or after `LATEST`. It is written at once when anything else changes or it ends.
In between its pieces are announced on the topic of texts.

Three things keep that safe:

- **Nothing is lost.** The oldest event held back of each prediction holds its partition's committed
  offset. After a crash it is read again, and gives the same versions.
- **Nothing is shown that another writer contradicts.** Pieces have no version of their own. The
  write expects the version that the store had. If another processor was faster, all events since
  are judged again by what stands.
- **Nothing grows without bound.** Beyond `BUDGET` the oldest is written first.
"""

import heapq
from collections.abc import Callable
from time import monotonic

from msgspec import Struct

from tidings.storage.prediction import Prediction
from tidings.streams.changes.text_codec import piece, refused
from tidings.streams.log.consumer_loop import Claim, ConsumerLoop
from tidings.streams.log.protocol import NewRecord
from tidings.streams.processing.batch_entry import BatchEntry
from tidings.streams.processing.held_text import HeldText, first_place

FLUSH = 0.5
"""Seconds between two records of a text that grows quickly."""
LATEST = 2.0
"""Seconds between two records of one that grows."""
SHARE = 8
"""It is written before `LATEST` only if it has grown by this part of itself. Then the bytes written
in all grow with the text's length, and not with its square."""
BUDGET = 64 * 1024 * 1024
"""Bytes of what is held back."""
_REMEMBERED = 10.0
"""Seconds for which it is known when a text was written; of one that is not known it counts as now."""


class Announcements(Struct, gc=False):
    """What a batch's step 5 says of texts, and lets go of."""

    pieces: list[NewRecord]
    released: list[Claim]
    """Of what was held back before and is written now."""


class TextFlush:
    """What is held back of the predictions that a processor has.

    Args:
        flush: Seconds between two records of a text that grows quickly; 0: nothing is held back.
        budget: Bytes of what is held back.
        clock: In monotonic seconds.
    """

    def __init__(
        self,
        flush: float = FLUSH,
        *,
        budget: int = BUDGET,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._flush, self._latest = flush, max(LATEST, flush) if flush else 0.0
        self._budget = budget
        self._clock = clock
        self.held: dict[str, HeldText] = {}
        """By prediction; what has been held back for longest is first."""
        self.size = 0
        self.announced = 0
        """Pieces since the start."""
        self.everything = False
        """Whether all of it is to be written with the next batch, and nothing is held back any more."""
        self._written: dict[str, float] = {}
        """When a text was written last, oldest first."""
        self._queue: list[tuple[float, str]] = []

    def drop(self) -> None:
        """Forget all of it: the events come again, to whoever has their partitions now."""
        self.held, self._written, self._queue = {}, {}, []
        self.size, self.everything = 0, False

    def wait(self, most: float) -> float:
        """Seconds until something is to be written, `most` at most."""
        if (self.everything and self.held) or self.size > self._budget:
            return 0.0
        return min(most, max(0.0, self._queue[0][0] - self._clock())) if self._queue else most

    # ---- 2: what joins a batch ----

    def join(self, entries: dict[str, BatchEntry]) -> list[str]:
        """Let what is held back of these predictions go on in their batch, and what is due join it.

        Returns:
            Those of which nothing is held back: what stands of them is to be loaded.
        """
        if not self.held:
            self._queue.clear()
            return list(entries)
        for prediction_id in entries.keys() & self.held.keys():
            entries[prediction_id].held = self.held[prediction_id]
        for prediction_id in self._due():
            if (entry := entries.get(prediction_id)) is None:
                entry = entries[prediction_id] = BatchEntry()
                entry.held = self.held[prediction_id]
        return [i for i, entry in entries.items() if entry.held is None]

    def _due(self) -> list[str]:
        if self.everything:
            return list(self.held)
        now, queue, due = self._clock(), self._queue, []
        while queue and queue[0][0] <= now:
            at, prediction_id = heapq.heappop(queue)
            held = self.held.get(prediction_id)
            if held is not None and held.due_at == at:
                due.append(prediction_id)
        size = self.size
        for prediction_id, held in self.held.items():
            if size <= self._budget:
                break
            held.due_at = now
            due.append(prediction_id)
            size -= held.size
        return due

    # ---- 3: what is held back ----

    def holds(self, entry: BatchEntry) -> bool:
        """Whether what has become of a prediction's events is not written yet."""
        reduction, before, held = entry.reduction, entry.before, entry.held
        if reduction is None or before is None or reduction.duplicates or self.everything:
            return False
        if not reduction.only_growth and (reduction.applied or not entry.resumed):
            return False
        record = reduction.record
        assert isinstance(record, Prediction)
        if record.source is None or len(record.source.offsets) != 1:
            return False
        now = self._clock()
        if held is None:
            written_at = self._written.get(record.prediction_id, now)
            before_length = entry.length_before
        else:
            if held.due_at <= now:
                return False
            written_at, before_length = held.written_at, held.base_length
        grown = (record.text_length or 0) - before_length
        quick = grown > 0 and grown * SHARE >= before_length
        entry.due_at = written_at + (self._flush if quick else self._latest)
        return now < entry.due_at

    # ---- 4 and 5: what is written, and what is announced instead ----

    def settle(self, entries: dict[str, BatchEntry], loop: ConsumerLoop) -> Announcements:
        """Take note of what was written, and hold back the rest; returns what is to be announced of it."""
        said = Announcements([], [])
        now = self._clock()
        for prediction_id, entry in entries.items():
            reduction = entry.reduction
            if reduction is not None and reduction.refusals and reduction.record is not None:
                base = entry.before.version if entry.before is not None else 0
                said.pieces += refused(reduction.record, base, reduction.refusals)
            if entry.holding:
                self._hold(prediction_id, entry, loop, said)
                continue
            if (held := entry.held) is not None:
                del self.held[prediction_id]
                self.size -= held.size
                said.released.append(held.claim)
            if reduction is not None and entry.changed:
                record = reduction.record
                if isinstance(record, Prediction) and record.text_length is not None:
                    self._note_written(prediction_id, now)
        return said

    def _hold(
        self, prediction_id: str, entry: BatchEntry, loop: ConsumerLoop, said: Announcements
    ) -> None:
        reduction, held, before = entry.reduction, entry.held, entry.before
        assert reduction is not None
        assert before is not None
        if held is None:
            standing = before.standing()
            assert isinstance(standing, Prediction)
            written_at = self._written.get(prediction_id)
            claim = loop.keep(first_place(entry.events))
            held = HeldText(
                before, standing, claim, self._clock() if written_at is None else written_at
            )
            self.held[prediction_id] = held
            self.size += held.size
        if held.due_at != entry.due_at:
            held.due_at = entry.due_at
            heapq.heappush(self._queue, (entry.due_at, prediction_id))
        if reduction.applied:
            text = b"".join(reduction.added or ())
            assert reduction.record is not None
            assert reduction.position is not None
            new = piece(
                reduction.record,
                held.base.version,
                text,
                before=held.length,
                crc=held.crc,
                position=reduction.position,
            )
            said.pieces.append(new)
            self.announced += 1
            held.grow(text)
        if entry.events:
            held.add(entry.events, entry.size, reduction)
            self.size += entry.size

    def _note_written(self, prediction_id: str, now: float) -> None:
        written = self._written
        written.pop(prediction_id, None)
        written[prediction_id] = now
        while written:
            oldest = next(iter(written))
            if written[oldest] > now - _REMEMBERED:
                break
            del written[oldest]
