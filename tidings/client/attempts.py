"""Watching a prediction through its attempts: if it was tried again, the watch goes on with the next one."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tidings.client.progress import Deleted, Update
from tidings.streams.rules.retries import due_retry

if TYPE_CHECKING:
    from tidings.client.subscription import Watch


class AttemptsWatch:
    """An async iterator over one prediction's states, and those of every later attempt at it.

    It goes on after an end, which may be followed by a retry, until it is closed.

    Args:
        prediction_id: The first attempt that is watched.
        begin: Opens a watch of one prediction.
    """

    def __init__(self, prediction_id: str, begin: "Callable[[str], Watch]") -> None:
        self._begin = begin
        self._watch = begin(prediction_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        update = await anext(self._watch)
        if not isinstance(update, Deleted) and update.retried_as is not None:
            before, self._watch = self._watch, self._begin(update.retried_as)
            await before.aclose()
        return update

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the watch. Idempotent."""
        await self._watch.aclose()


def is_last(update: Update) -> bool:
    """Whether no further attempt is to be expected: none was begun, and no policy asks for one."""
    if isinstance(update, Deleted):
        return True
    return update.status.terminal and update.retried_as is None and due_retry(update) is None
