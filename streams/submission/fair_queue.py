"""Waiting orders of several owners, served in turn.

Nobody waits behind all that another one has ordered.
"""

from collections import OrderedDict, deque


class FairQueue:
    """Prediction ids by owner, one of each owner in turn, in the order they came within one.

    Args:
        most: That wait at once.
        most_of_one: Of one owner; those without an owner, whom only trusted callers create, may
            fill it.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._waiting: OrderedDict[str | None, deque[str]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, owner: str | None, prediction_id: str) -> bool:
        """Add one at the end of its owner's; False: there is no room."""
        own = self._waiting.get(owner, ())
        if self._count >= self._most or (owner is not None and len(own) >= self._most_of_one):
            return False
        self._waiting.setdefault(owner, deque()).append(prediction_id)
        self._count += 1
        return True

    def pop(self) -> str:
        """Take the next one out. Raises IndexError if none waits."""
        if not self._waiting:
            raise IndexError("nothing waits")
        owner, waiting = self._waiting.popitem(last=False)
        prediction_id = waiting.popleft()
        if waiting:
            self._waiting[owner] = waiting  # behind all the others
        self._count -= 1
        return prediction_id
