"""What was read once must not kill at every start: which records were under way when a process ended without a word.

A record may cost more memory than there is, or meet a fault that ends the process. It is read again at the next start,
and ends that one too. So the store keeps a note for each partition:

1. As the first records of an assignment are begun, the note says at which offset, and how often a process began there.
   One that ends in order clears it, and one that commits anything begins elsewhere the next time.
2. After two ends at the same offset the records that may have been under way are taken one by one, and each is noted
   before it is begun. So a process that dies leaves the name of the record that it died of.
3. A record that was under way at three ends is set aside as a dead letter, `crash`.

Processes die for other reasons too. A record that waits for a store or a log, or meets one whose
settings or rights need fixing, is no longer noted as under way. A restart then says nothing about
it. And a record that is done is never counted, whatever its neighbours do.
"""

import uuid
from collections.abc import Iterable, Sequence, Set

import msgspec
from msgspec import Struct

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.notes import notes_of
from tidings.streams.log.protocol import Record

CRASH = "crash"
"""The code of the dead letter."""
STARTS = 2
"""Ends at the same offset after which records are taken one by one."""
ENDS = 3
"""Ends at which a record was under way alone, after which it is set aside."""
SPAN = 100
"""Offsets that are taken one by one, and records in the first batches of a process that begins
at the offsets at which the last one ended. So they include what was under way when that one ended, or something was
committed and the next begins further on. More would keep a partition for minutes whose processes
were killed for other reasons."""

_NOTE = "processing"

logger = get_logger(__name__)


class _PartitionNote(Struct, gc=False, omit_defaults=True):
    log: str = ""
    owner: str = ""
    offset: int = -1
    """Where the last process began."""
    starts: int = 0
    """How often in a row one began there, and did not end in order."""
    until: int = 0
    """Records below this offset are taken one by one."""
    under_way: int | None = None
    ends: dict[int, int] = {}
    """By offset, how often a process ended while this record was under way alone."""


_decoder = msgspec.json.Decoder(_PartitionNote)
_encode = msgspec.json.Encoder().encode


class CrashJournal:
    """The notes of the partitions that a processor has. Its store may keep none: then nothing is ever careful.

    Every method but `careful` may raise `StoreUnavailable`; a repeat is harmless.

    Args:
        store: The processor's.
        log: The log's id: notes of another one say nothing.
    """

    def __init__(self, store: object, log: str) -> None:
        self._keeper = notes_of(store)
        self._log = log
        self._owner = uuid.uuid4().hex
        self._notes: dict[int, _PartitionNote] = {}
        self._begun: set[int] = set()
        """Partitions of which something was begun in this assignment."""

    @property
    def careful(self) -> bool:
        """Whether records of some partition are taken one by one."""
        return any(note.until for note in self._notes.values())

    def divided(self, records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
        """Those to be taken one by one, as others of their partition may have ended processes, and the rest."""
        watched = {partition for partition, note in self._notes.items() if note.until}
        doubtful, calm = list[Record](), list[Record]()
        for record in records:
            (doubtful if record.partition in watched else calm).append(record)
        return doubtful, calm

    @property
    def suspicious(self) -> bool:
        """Whether the last process ended where this one begins: what it takes at first should be little at a time."""
        return any(note.starts == STARTS for note in self._notes.values())

    async def open(self, partitions: Iterable[int]) -> None:
        """Read the notes of what was assigned."""
        if self._keeper is None:
            return
        kept = await self._keeper.notes()
        self._notes, self._begun = {}, set()
        for partition in partitions:
            note = self._read(kept.get(f"{_NOTE}-{partition}"))
            if note.owner == self._owner:  # this process has it again, and is alive
                note.starts = max(0, note.starts - 1)
            elif note.under_way is not None:
                note.ends[note.under_way] = note.ends.get(note.under_way, 0) + 1
            note.under_way, note.owner = None, self._owner
            self._notes[partition] = note

    def _read(self, text: str | None) -> _PartitionNote:
        try:
            note = _decoder.decode(text) if text else _PartitionNote()
        except msgspec.DecodeError:
            note = _PartitionNote()
        if note.log != self._log:
            note = _PartitionNote(log=self._log)
        note.ends = dict(note.ends)
        return note

    def knows(self, records: Sequence[Record]) -> bool:
        """Whether something of each of these records' partitions was begun before, in this assignment."""
        return self._begun.issuperset([record.partition for record in records])

    async def admit(self, records: Sequence[Record]) -> None:
        """These are about to be begun: note where this process begins with each partition."""
        first: dict[int, int] = {}
        for record in records:
            if record.partition not in self._begun and record.partition in self._notes:
                first.setdefault(record.partition, record.offset)
        self._begun.update({record.partition for record in records} - self._notes.keys())
        for partition, offset in first.items():
            note = self._notes[partition]
            if note.until <= offset:
                note.starts = note.starts + 1 if note.offset == offset else 1
                note.offset, note.until, note.ends = offset, 0, {}
                if note.starts > STARTS:
                    note.until = offset + SPAN
                    logger.warning(
                        "processor.one_by_one", partition=partition, offset=offset, ends=STARTS
                    )
            await self._keep(partition)
            self._begun.add(partition)

    async def begin(self, record: Record) -> bool:
        """Note, before it is begun, that this record is under way alone; False: it is to be set aside instead."""
        note = self._notes.get(record.partition)
        if note is None or not note.until:
            return True
        if record.offset >= note.until:
            await self.calm({record.partition})
            return True
        # What lies below was committed, or it would have been read first.
        note.ends = {offset: ends for offset, ends in note.ends.items() if offset >= record.offset}
        if note.ends.get(record.offset, 0) >= ENDS:
            return False
        note.under_way = record.offset
        await self._keep(record.partition)
        return True

    async def calm(self, partitions: Set[int]) -> None:
        """Nothing dangerous is left in these partitions: take records by the batch again."""
        for number, note in self._notes.items():
            if note.until and number in partitions:
                note.until, note.under_way, note.ends, note.starts = 0, None, {}, 0
                await self._keep(number)
                logger.info("processor.by_the_batch", partition=number)

    async def waiting(self) -> None:
        """What is under way waits for a store or a log: if the process ends now, it is not because of the record."""
        for partition, note in self._notes.items():
            if note.under_way is not None:
                note.under_way = None
                try:
                    await self._keep(partition)
                except StorageError as error:  # it may be the store that is waited for
                    logger.debug("processor.journal_unavailable", error=str(error))

    async def close(self) -> None:
        """This process ends in order: nothing that it had under way has ended it."""
        for partition in self._begun & self._notes.keys():
            self._notes[partition] = _PartitionNote(log=self._log, owner=self._owner)
            await self._keep(partition)
        self._begun = set()

    async def _keep(self, partition: int) -> None:
        assert self._keeper is not None
        await self._keeper.note(f"{_NOTE}-{partition}", _encode(self._notes[partition]).decode())
