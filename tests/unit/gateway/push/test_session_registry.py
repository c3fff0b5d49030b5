"""What the registry does for all sessions together: it ends expired tokens, without visiting everybody to find them."""

from tests.support.clock import ManualClock
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.protocol import Close
from tidings.gateway.push.session_registry import GROUPS, SessionRegistry
from tidings.storage.memory import MemoryStore
from tidings.storage.wrappers.cache import CachedStore

NOW = 1_700_000_000


class Connection:
    """A connection that counts how often its token is looked at, and says what it was closed with."""

    heard = True
    reading = True

    def __init__(self, expires_at: float) -> None:
        self._expires_at = expires_at
        self.looks = 0
        self.code: int | None = None

    @property
    def session(self) -> "Connection":
        return self

    @property
    def expires_at(self) -> float:
        self.looks += 1
        return self._expires_at

    def ping(self) -> None:
        self.heard = True

    def close(self, code: int, reason: str = "") -> None:
        self.code = code


async def test_tokens_end_in_time_and_are_not_looked_at_before() -> None:
    """Each connection is closed within a second of its token's end; others are looked at now and then, not each second."""
    clock = ManualClock(NOW * 1000)
    registry = SessionRegistry(Hub(), CachedStore(MemoryStore()), clock=clock)
    connections = [Connection(NOW + 10 + number) for number in range(400)]
    for connection in connections:
        registry.add(connection)  # type: ignore[arg-type]
        registry._context.granted(connection._expires_at)
    late = Connection(NOW + 65)

    def second() -> None:
        clock.advance(1)
        for _ in range(4):
            registry._tick = (registry._tick + 1) % GROUPS
            registry._expire()

    for passed in range(1, 120):
        second()
        if passed == 60:  # a token that is given late, and ends before the others of its group
            registry.add(late)  # type: ignore[arg-type]
            registry._context.granted(late._expires_at)
        for connection in (*connections, late):
            assert (connection.code == Close.TOKEN_REFUSED) == (
                connection._expires_at <= NOW + passed
            ) or connection is late
    assert late.code == Close.TOKEN_REFUSED
    assert max(connection.looks for connection in connections) < 60
