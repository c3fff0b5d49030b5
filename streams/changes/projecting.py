"""What a store must offer that decides by a copy of its own: the protocol `Projecting`."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from tidings.storage.store import Stored, Write


@runtime_checkable
class Projecting(Protocol):
    """A store that decides by a copy of its own, and shows it to others late."""

    @property
    def buffered(self) -> int:
        """Writes that the copy has and the store does not yet."""

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What the copy has."""

    async def restore(self, writes: Iterable[Write]) -> None:
        """Take these into the copy, unless it has newer ones, and give them to the store again."""

    def refresh(self, prediction_ids: Iterable[str]) -> None:
        """Give the store again what the copy has."""

    def forget(self, prediction_ids: Iterable[str]) -> None:
        """Drop these from the copy."""
