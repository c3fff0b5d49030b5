"""The budget for bytes that are held in memory on behalf of somebody outside.

Everything that a client can make the process hold is counted here, per connection, per owner and in
all: a body that is still coming in, a page that is not read yet, messages for a slow session. Each
part asks before it holds more and says what it does at a limit (a shorter page, a 429 or 503,
versions instead of bytes). Pure: no clock, no I/O.

```
HeldBytes               one for the process
└── HeldAccount         one for each connection, or for each request
    └── by kind         what `tidings_held_bytes{kind}` shows
```
"""

from collections import Counter
from enum import StrEnum

from msgspec import Struct

MIB = 1024 * 1024


class Kind(StrEnum):
    """What bytes are held for."""

    BODIES = "bodies"
    """Bodies of requests, from their first byte until the request is answered."""
    UNPROVEN = "unproven"
    """Bodies of webhooks whose signature is not verified yet; a stranger can send those."""
    PAGES = "pages"
    """Lists and single answers that the client has not taken yet."""
    SNAPSHOTS = "snapshots"
    """Pages of records that a subscription or an event stream has yet to send."""
    PENDING = "pending"
    """Changes that wait for a slow session or stream."""


class HeldLimits(Struct, frozen=True, kw_only=True):
    """How many bytes may be held."""

    connection: int = 16 * MIB
    owner: int = 64 * MIB
    """Of one token's `sub` together, or of one address if there is none."""
    process: int = 128 * MIB

    @property
    def unproven(self) -> int:
        """Of bodies that nothing vouches for, in all: they must leave room for the others."""
        return self.process // 2


class HeldBytes:
    """What is held in this process.

    Args:
        limits: How much may be.
    """

    def __init__(self, limits: HeldLimits | None = None) -> None:
        self.limits = limits or HeldLimits()
        self.total = 0
        self.by_kind: Counter[Kind] = Counter(dict.fromkeys(Kind, 0))
        self._owners: Counter[str] = Counter()

    def account(self, owner: str | None = None) -> "HeldAccount":
        """An account of one connection or request; whoever opens one has to `close` it.

        Args:
            owner: Who else's accounts count together with it; None: nobody's.
        """
        return HeldAccount(self, owner)

    def owner_holds(self, owner: str) -> int:
        """Bytes held for an owner."""
        return self._owners[owner]

    def add(self, kind: Kind, owner: str | None, size: int) -> None:
        """Count bytes that an account has taken, or given back."""
        self.total += size
        self.by_kind[kind] += size
        if owner is not None:
            self._owners[owner] += size
            if not self._owners[owner]:
                del self._owners[owner]


class HeldAccount:
    """What is held for one connection, or one request. Made by `HeldBytes.account`."""

    __slots__ = ("_budget", "_kinds", "held", "owner")

    def __init__(self, budget: HeldBytes, owner: str | None) -> None:
        self._budget = budget
        self.owner = owner
        self._kinds: dict[Kind, int] | None = None  # most sessions never hold anything
        self.held = 0

    @property
    def holds_alone(self) -> bool:
        """Whether nothing is held for its owner; without an owner: in this account."""
        return not (self.held if self.owner is None else self._budget.owner_holds(self.owner))

    def room(self, kind: Kind | None = None) -> int:
        """Bytes that may be taken before one of the limits is met."""
        budget, limits = self._budget, self._budget.limits
        room = min(limits.connection - self.held, limits.process - budget.total)
        if self.owner is not None:
            room = min(room, limits.owner - budget.owner_holds(self.owner))
        if kind is Kind.UNPROVEN:
            room = min(room, limits.unproven - budget.by_kind[kind])
        return max(0, room)

    def within_own_limits(self, size: int) -> bool:
        """Whether it is the process, and not this caller, that holds too much for so many more."""
        budget = self._budget
        return size + self.held <= budget.limits.connection and (
            self.owner is None or size + budget.owner_holds(self.owner) <= budget.limits.owner
        )

    def take(self, kind: Kind, size: int) -> bool:
        """Hold so many bytes more; False, and nothing is counted, if a limit forbids it."""
        if size > self.room(kind):
            return False
        self.count(kind, size)
        return True

    def count(self, kind: Kind, size: int) -> None:
        """Count bytes that are held in any case, such as a single record over the room left."""
        if self._kinds is None:
            self._kinds = {}
        self._kinds[kind] = self._kinds.get(kind, 0) + size
        self.held += size
        self._budget.add(kind, self.owner, size)

    def give_back(self, kind: Kind, size: int) -> None:
        """So many bytes of the kind are no longer held."""
        self.count(kind, -size)

    def change(self, before: Kind, after: Kind) -> None:
        """Count what was held as one kind as another: a body that has been verified."""
        size = (self._kinds or {}).get(before, 0)
        self.count(before, -size)
        self.count(after, size)

    def close(self) -> None:
        """Nothing is held any more."""
        for kind, size in (self._kinds or {}).items():
            self._budget.add(kind, self.owner, -size)
        self._kinds, self.held = None, 0

    def __enter__(self) -> "HeldAccount":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
