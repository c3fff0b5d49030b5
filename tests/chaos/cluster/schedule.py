"""Which faults come when: the same seed gives the same faults in the same order. Pure."""

import random
from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct


class Kind(StrEnum):
    """What happens to a part."""

    KILL = "kill"
    """Ended on the spot, and started again after a while."""
    FREEZE = "freeze"
    """Stands still with its connections open."""
    RESTART = "restart"
    """Ended in order and started again at once."""
    CUT = "cut"
    """Its connections end, new ones are refused."""
    HANG = "hang"
    """Nothing passes on its connections, and none of them ends."""
    SLOW = "slow"
    """Its answers come late."""
    FULL = "full"
    """No room on its disk."""
    AHEAD = "ahead"
    """Its clock jumps an hour ahead, and back."""
    BEHIND = "behind"
    """Its clock jumps an hour back, and ahead again."""
    DEMOTED = "demoted"
    """A database that takes no writes any more, as a primary that became a replica."""
    PARTITIONS = "partitions"
    """Its topics get more partitions."""
    POISON = "poison"
    """A storm of records that make no sense."""
    FLOOD = "flood"
    """One prediction reports faster than anybody can follow."""


class Fault(Struct, frozen=True):
    """One fault of a schedule."""

    number: int
    pause: float
    """Seconds of calm before it."""
    part: str
    kind: Kind
    seconds: float
    """How long it lasts."""

    @property
    def name(self) -> str:
        """`part.kind`."""
        return f"{self.part}.{self.kind}"

    @property
    def limit(self) -> float:
        """Seconds after its end within which news must flow again.

        A processor that dies or falls silent keeps its partitions until its session with the broker has run out (6 s);
        so this counts for it, and for the broker, which has to find its members again.
        """
        away = self.kind not in {Kind.RESTART, Kind.AHEAD, Kind.BEHIND}
        return 8.0 if self.part == "broker" or (self.part.startswith("processor") and away) else 2.0

    def __str__(self) -> str:
        return f"{self.number:3}  {self.name:20} for {self.seconds:.1f} s after {self.pause:.1f} s of calm"


_AWAY = (Kind.KILL, Kind.FREEZE, Kind.RESTART)
_LINKED = (*_AWAY, Kind.CUT, Kind.HANG)
_CLOCKS = (Kind.AHEAD, Kind.BEHIND)

CATALOG: dict[str, tuple[Kind, ...]] = {
    "broker": (*_LINKED, Kind.FULL, Kind.PARTITIONS),
    "postgres": (*_LINKED, Kind.SLOW, Kind.FULL, Kind.DEMOTED),
    "valkey": _LINKED,
    "processor-1": (*_LINKED, *_CLOCKS),
    "processor-2": _LINKED,
    "gateway-1": (*_LINKED, *_CLOCKS),
    "gateway-2": _LINKED,
    "proxy": _LINKED,
    "archiver": _LINKED,
    "reconciler": _LINKED,
    "notifier": _LINKED,
    "assets": (Kind.FULL,),
    "load": (Kind.POISON, Kind.FLOOD),
}
"""Per part what may happen to it. `assets` is where files are kept."""

NAMES = tuple(f"{part}.{kind}" for part, kinds in CATALOG.items() for kind in kinds)

SHORT = (
    "processor-1.kill",
    "broker.kill",
    "gateway-1.kill",
    "postgres.freeze",
    "load.poison",
    "proxy.restart",
    "load.flood",
)
"""The fixed set of the short form."""

PAUSE = (1.0, 4.0)
LASTING = (2.0, 8.0)
SHORT_LASTING = (2.0, 3.0)
SHORT_PAUSE = (0.3, 0.6)


class UnknownFault(ValueError):
    """No fault is called that; the message names those there are."""


def schedule(
    seed: int,
    names: tuple[str, ...] | None = None,
    lasting: tuple[float, float] = LASTING,
    pause: tuple[float, float] = PAUSE,
) -> Iterator[Fault]:
    """Faults without end (or those named, in this order, once).

    Every one of the catalog comes before any comes again.

    Args:
        seed: Of the order, the pauses and the lengths.
        names: `part.kind` each.
        lasting: Between how many seconds one lasts.
        pause: Between how many seconds of calm come before it.

    Raises:
        UnknownFault: The catalog has no such fault.
    """
    chance = random.Random(seed)
    number = 0
    for name in names or ():
        if name not in NAMES:
            raise UnknownFault(f"{name!r} is no fault; there are {', '.join(NAMES)}")
    while True:
        order = list(names or NAMES)
        if not names:
            chance.shuffle(order)
        for name in order:
            number += 1
            part, _, kind = name.partition(".")
            yield Fault(number, chance.uniform(*pause), part, Kind(kind), chance.uniform(*lasting))
        if names:
            return
