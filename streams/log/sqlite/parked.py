"""Changes that are written to the file a moment after they were told, many in one transaction.

A change is announced behind each event. Whoever follows in this process reads it from memory; if
the process ends before it is in the file, the processor announces it again from the event. So it
needs no transaction of its own. Whoever reads the file must not see a change that the store lacks:
the store says when (`wait_for`).
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import time_ns
from typing import Any

from msgspec import Struct

from tidings.storage.loggers import get_logger
from tidings.streams.log.protocol import NewRecord
from tidings.streams.log.sqlite.transaction import Transaction
from tidings.streams.log.sqlite.writer import LogWriter

logger = get_logger(__name__)


class _Append(Struct, frozen=True):
    """Records with the offset that was promised for the first of them."""

    topic: int
    first: int
    now: int
    records: Sequence[NewRecord]
    size: int


class ParkedChanges:
    """What is not in the file yet.

    Args:
        writer: Writes it.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._appends: list[_Append] = []
        self._under_way = 0
        self._gathering: Callable[[], bool] = bool
        self._settle: Callable[[], Awaitable[None]] = self.write

    def wait_for(
        self, gathering: Callable[[], bool], settle: Callable[[], Awaitable[None]]
    ) -> None:
        """Let changes wait while a store gathers what they tell of.

        Args:
            gathering: Whether something is not in the store yet.
            settle: Brings everything there, and calls `write` then.
        """
        self._gathering, self._settle = gathering, settle

    @property
    def waits(self) -> bool:
        """Whether what is appended now has to wait."""
        return self._gathering()

    @property
    def unwritten(self) -> bool:
        """Whether something waits, or is being written."""
        return bool(self._appends) or self._under_way > 0

    def add(self, topic: int, first: int, records: Sequence[NewRecord], size: int) -> int:
        """Let these records wait.

        Args:
            topic: Its number. Nobody else may append to it.
            first: The offset that its next record gets.
            records: To append.
            size: Their bytes.

        Returns:
            The time of all, in ms.
        """
        now = time_ns() // 1_000_000
        self._appends.append(_Append(topic, first, now, records, size))
        return now

    async def settle(self) -> None:
        """Wait until nothing is unwritten, of the store neither.

        Raises:
            StorageError, LogError: Something cannot be written.
        """
        if self.unwritten:
            await self._settle()

    async def write(self) -> None:
        """Write all that waits.

        Raises:
            LogError: It waits on.
        """
        appends, self._appends = self._appends, []
        if not appends:
            return
        self._under_way += 1
        try:
            firsts: list[int] = await self._writer.submit(
                partial(_write, appends),
                durable=False,
                size=sum([one.size for one in appends]),
                quick=True,
            )
        except BaseException:
            self._appends[:0] = appends
            raise
        finally:
            self._under_way -= 1
        for one, first in zip(appends, firsts, strict=True):
            if first != one.first:  # nobody but the processor appends changes
                logger.error("log.parked.moved", promised=one.first, found=first)


def _write(appends: Sequence[_Append], transaction: Transaction) -> Any:
    return [transaction.append(one.topic, one.records, one.now)[0] for one in appends]
