"""A store that will not take everything, for tests."""

from collections.abc import Sequence

from tidings.storage.memory import MemoryStore
from tidings.storage.store import Outcome, Write, WriteRefused


class Fussy(MemoryStore):
    """Refuses records that mention a word, as a database refuses what it cannot hold."""

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        kept = [write for write in writes if b"forbidden" not in write.encoded]
        outcomes = iter(await super().write(kept))
        return [
            WriteRefused("cannot hold it") if b"forbidden" in w.encoded else next(outcomes)
            for w in writes
        ]
