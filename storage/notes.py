"""Small texts that a store keeps beside its records, for whoever builds it."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Notes(Protocol):
    """A store that keeps notes, as those do that are one database."""

    async def notes(self) -> dict[str, str]:
        """All of them, by name. Raises `StoreUnavailable`."""

    async def note(self, name: str, text: str) -> None:
        """Keep a text under a name, instead of what stood there. Raises `StoreUnavailable`."""


def notes_of(store: object) -> Notes | None:
    """The first store that keeps notes among a store and what it wraps; None: there is none."""
    inner: object = store
    while inner is not None:
        if isinstance(inner, Notes):
            return inner
        inner = getattr(inner, "store", None)
    return None
