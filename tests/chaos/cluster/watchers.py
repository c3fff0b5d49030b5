"""Clients that watch through the proxy, come back as clients do, and hold every message against the ledger."""

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from urllib.parse import urlencode

import aiohttp
import msgspec
from msgspec import Struct

from tests.chaos.cluster.ledger import Ledger, Problem
from tests.chaos.cluster.linked import LinkedCluster
from tidings.client.progress import Message, Selection, Update, WatchState, parse
from tidings.client.subscription import Watch
from tidings.client.token import TokenSource

LIMIT = 10_000
NOTICED = 0.5
"""Seconds without news that count as a silence."""
RETRY = 1000
"""Milliseconds after which a browser opens an event stream again, where nothing else was said."""


class Record(Struct, rename="camel"):
    """What of a record is checked."""

    prediction_id: str
    version: int
    status: str
    owner: str | None = None
    logs_length: int = 0


_record = msgspec.json.Decoder(Record)


class Watcher:
    """One client.

    Args:
        name: For reports.
        selection: What it watches.
        ledger: What it must see.
    """

    def __init__(self, name: str, selection: Selection, ledger: Ledger) -> None:
        self.name = name
        self.selection = selection
        self._ledger = ledger
        self.newest: dict[str, int] = {}
        self.silences: list[tuple[float, float]] = []
        self.connected_at = 0.0
        self.connections = 0
        self._last = time.monotonic()
        self._sent: dict[str, int] = {}
        """On this connection, the last version sent or known, by prediction."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open right now."""
        raise AssertionError("each kind has its own")

    def begin(self, known: dict[str, int]) -> None:
        """A new connection, on which nothing at or below what is known may come."""
        self._sent = dict(known)
        self.connected_at = time.monotonic()
        self.connections += 1

    def take(self, message: Message) -> None:
        """Check a message."""
        if message.type == "deleted":
            self._ledger.problem(
                Problem.WRONG, f"{self.name} was told that {message.prediction_id} is gone"
            )
        if message.type not in {"snapshot", "change"}:
            return
        record = _record.decode(message.prediction)
        one, version = record.prediction_id, record.version
        before = self._sent.get(one, 0)
        if version <= before:
            self._ledger.problem(
                Problem.REPEATED, f"{self.name} was sent {one} v{version} after v{before}"
            )
        self._sent[one] = version
        self.newest[one] = max(version, self.newest.get(one, 0))
        self._ledger.delivered += 1
        self._ledger.shown(self.name, one, version, record.status, record.logs_length)
        now = time.monotonic()
        if now - self._last > NOTICED:
            self.silences.append((self._last, now))
        self._last = now

    def silence(self, since: float) -> float:
        """The longest time without news of which some lies after a moment."""
        open_now = time.monotonic() - self._last
        return max([end - begin for begin, end in self.silences if end > since] + [open_now])

    def watches(self, prediction_id: str, owner: str | None) -> bool:
        """Whether a prediction is among what it watches."""
        chosen = self.selection
        return (
            chosen.all
            or prediction_id in chosen.predictions
            or (owner is not None and owner == chosen.owner)
        )

    async def run(self) -> None:
        """Watch until canceled."""
        raise AssertionError("each kind has its own")


class _Checking(WatchState):
    """The client's own bookkeeping, which shows every message to the watcher before anything is left out."""

    def __init__(self, watcher: Watcher) -> None:
        limit = None if watcher.selection.predictions else LIMIT
        super().__init__(watcher.selection, known={}, limit=limit)
        self._watcher = watcher

    def requests(self) -> Iterator[dict[str, object]]:
        found = list(super().requests())
        known: dict[str, int] = {}
        for request in found:
            known |= msgspec.convert(request.get("known", {}), dict[str, int])
        self._watcher.begin(known)
        yield from found

    def update_from(self, message: Message) -> Update | None:
        self._watcher.take(message)
        return super().update_from(message)


class WebSocketWatcher(Watcher):
    """Tidings' own client in Python."""

    def __init__(
        self, name: str, selection: Selection, ledger: Ledger, cluster: LinkedCluster
    ) -> None:
        super().__init__(name, selection, ledger)
        self._watch = Watch(cluster.url, TokenSource(cluster.token()), _Checking(self))

    @property
    def connected(self) -> bool:
        return self._watch.connected and self._watch.synced

    async def run(self) -> None:
        async with self._watch as watch:
            async for _ in watch:
                pass


class EventStreamWatcher(Watcher):
    """Server-Sent Events as a browser reads them."""

    def __init__(
        self, name: str, selection: Selection, ledger: Ledger, cluster: LinkedCluster
    ) -> None:
        super().__init__(name, selection, ledger)
        query = (
            {"limit": str(LIMIT)}
            if not selection.predictions
            else {"predictions": ",".join(selection.predictions)}
        )
        if selection.owner is not None:
            query["owner"] = selection.owner
        if selection.all:
            query["all"] = "true"
        self._url = f"{cluster.url}/api/events?{urlencode(query)}"
        self._headers = {
            "Authorization": f"Bearer {cluster.token()}",
            "Accept": "text/event-stream",
        }
        self._synced = False
        self._retry = RETRY

    @property
    def connected(self) -> bool:
        return self._synced

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=40)
        async with aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with session.get(self._url, headers=self._headers) as response:
                        if response.status == 200:
                            self.begin({})
                            await self._read(response)
                self._synced = False
                await asyncio.sleep(self._retry / 1000 * random.uniform(0.8, 1.2))

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        async for line in response.content:
            if line.startswith(b"data: "):
                message = parse(line[6:])
                self.take(message)
                self._synced = self._synced or message.type == "synced"
            elif line.startswith(b"retry: "):
                self._retry = int(line[7:])


def crowd(
    cluster: LinkedCluster, ledger: Ledger, count: int, owners: tuple[str, ...]
) -> list[Watcher]:
    """Clients of both kinds that watch everything, an owner, or predictions by their ids, some before they exist."""
    named = [
        *(line.prediction_id for line in list(ledger.lines.values())[:20]),
        *(f"p{n}" for n in range(60, 90)),
    ]
    chance = random.Random(count)
    found: list[Watcher] = []
    for number in range(count):
        kind = EventStreamWatcher if number % 4 == 3 else WebSocketWatcher
        sort = number % 3 if kind is WebSocketWatcher else number // 4 % 3
        if sort == 0:
            selection = Selection(all=True)
        elif sort == 1:
            selection = Selection(owner=owners[number % len(owners)])
        else:
            selection = Selection(predictions=tuple(chance.sample(named, 12)))
        found.append(kind(f"{kind.__name__[:3]}-{number}", selection, ledger, cluster))
    return found
