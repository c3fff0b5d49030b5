"""A steady load on a cluster: webhooks through the proxy, events by the log, predictions that a provider makes."""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence

import aiohttp
import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.partitioner import DefaultPartitioner

from tests.chaos.cluster.ledger import Ledger, Line, Problem, Way
from tests.chaos.cluster.life import Life
from tests.chaos.cluster.linked import LinkedCluster
from tests.support.conditions import eventually, lasting
from tests.support.webhooks import signed
from tidings.storage.prediction import Status
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    TEXT,
    Log,
    LogError,
    NewRecord,
)
from tidings.streams.processing.processor import GROUP

ACTIVE = 40
"""Predictions that go on at the same time."""
HOT = 4
"""Of these the ones that get `HOT_SHARE` of the events."""
HOT_SHARE = 0.4
STEPS = (20, 60)
HOT_STEPS = 400
OWNERS = ("ann", "bob", "eve")
PARTITIONS = 4
TOPICS = (EVENTS, CHANGES, DEAD_LETTERS, TEXT)
METADATA_AGE = 12.0
"""Seconds after which every client knows of added partitions: they look every ten."""
AGAIN = (0.1, 0.5)
"""Seconds before an event that was not acknowledged is sent again, between."""
PATIENCE = 120.0
"""Seconds after which an event that is never acknowledged is a problem."""
REQUEST = 12.0
FLOOD_RATE, FLOOD_BATCH = 400, 20
POISON_RATE, POISON_BATCH = 40, 5
"""Records a second: fewer than what makes the processors stop in the belief that all is poison."""
UNENDING = 1 << 30
"""The last step of what ends only when it is told to."""
MADE_EVERY = 6.0
"""Seconds between two predictions that the provider makes."""


class Load:
    """Sends, and keeps the ledger.

    Args:
        cluster: Where to.
        log: A producer's way to the topic, apart from all links.
        ledger: What was sent.
        rate: Events a second.
        seed: Of what comes next.
    """

    def __init__(
        self, cluster: LinkedCluster, log: Log, ledger: Ledger, rate: float, seed: int
    ) -> None:
        self._cluster = cluster
        self._log = log
        self._ledger = ledger
        self._rate = rate
        self._chance = random.Random(f"load {seed}")
        self._number = 0
        self._hot = [self._line(HOT_STEPS) for _ in range(HOT)]
        self._lines = [self._line() for _ in range(ACTIVE - HOT)]
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._pausing = False
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST))
        self._partitions = PARTITIONS
        self.probes = [self._probe(name) for name in probe_names(PARTITIONS)]
        """One in each partition: what flows for one may stand still for another."""
        self.again = 0
        self.life = Life(ledger, self._say)
        """Groups, deadlines, retries and questions."""

    async def run(self) -> None:
        """Send until stopped, then the rest of every prediction."""
        made, living = asyncio.create_task(self._make()), asyncio.create_task(self._live())
        due = time.monotonic()
        while not self._stopping.is_set():
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)
            await self._rest(due - time.monotonic())
            if not self._pausing and (line := self._next()) is not None:
                self._spawn(line)
        made.cancel()
        await asyncio.wait([made, living, *self._tasks])
        # The probes too: what is silent for long is looked up, and nobody knows it.
        lines = [*self._hot, *self._lines, *self.probes]
        for line in lines:
            line.last = min(line.last, line.tried + 3)
        async with asyncio.TaskGroup() as group:
            for line in lines:
                group.create_task(self._finish(line))

    def _probe(self, name: str) -> Line:
        return self._ledger.open(Line(name, Way.WEBHOOK, None, UNENDING))

    async def add_partitions(self) -> None:
        """Give the topics two partitions more, and have a probe in each of those too.

        Nothing is under way meanwhile: events of one prediction in two partitions have no order between them, so what
        is sent before has to be applied before anything lands elsewhere.
        """
        self._pausing = True
        try:
            await eventually(lambda: not self._tasks, PATIENCE)
            await eventually(self._applied, PATIENCE)
            self._partitions += 2
            admin = AIOKafkaAdminClient(bootstrap_servers=self._cluster.broker.bootstrap)
            await admin.start()
            try:
                await admin.create_partitions(
                    {topic: NewPartitions(self._partitions) for topic in TOPICS}
                )
            finally:
                await admin.close()
            await lasting(METADATA_AGE)
        finally:
            self._pausing = False
        known = {line.prediction_id for line in self.probes}
        names = probe_names(self._partitions)
        self.probes += [self._probe(name) for name in names if name not in known]

    async def _applied(self) -> bool:
        """Whether everything that was appended is processed."""
        committed = await self._log.committed(EVENTS, GROUP)
        bounds = await self._log.bounds(EVENTS)
        return all(committed.get(number, 0) >= end for number, (_, end) in bounds.items())

    def stop(self) -> None:
        """Begin no more; `run` returns when every prediction has ended."""
        self._stopping.set()

    async def close(self) -> None:
        """Give up what is under way, and close its connections."""
        for task in self._tasks:
            task.cancel()
        await self._session.close()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), max(0.0, seconds))

    def _line(self, last: int | None = None) -> Line:
        self._number += 1
        way = self._chance.choice(list(Way))
        owner = None if way is Way.WEBHOOK else self._chance.choice(OWNERS)
        return self._ledger.open(
            Line(f"p{self._number}", way, owner, last or self._chance.randint(*STEPS))
        )

    def _next(self) -> Line | None:
        """A prediction whose last event was acknowledged; a new one in place of one that has ended."""
        lines, steps = (
            (self._hot, HOT_STEPS) if self._chance.random() < HOT_SHARE else (self._lines, None)
        )
        at = self._chance.randrange(len(lines))
        if lines[at].prediction_id in self._busy:
            return None
        if lines[at].ended:
            lines[at] = self._line(steps)
        return lines[at]

    def _spawn(self, line: Line) -> None:
        self._busy.add(line.prediction_id)
        task = asyncio.create_task(self._work(line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, line: Line) -> None:
        try:
            await self.step(line)
        finally:
            self._busy.discard(line.prediction_id)

    async def _finish(self, line: Line) -> None:
        while not line.ended:
            before = line.acknowledged
            await self.step(line)
            if line.acknowledged == before:
                return

    async def step(self, line: Line) -> None:
        """Send a prediction's next event until it is acknowledged."""
        step = line.tried = line.acknowledged + 1
        began = time.monotonic()
        by_event = line.way is Way.EVENT or (line.way is Way.BOTH and step == 1)
        while not await (
            self._event(line, step) if by_event else self.webhook(_webhook(line, step))
        ):
            self.again += 1
            if time.monotonic() - began > PATIENCE:
                self._ledger.problem(
                    Problem.PART, f"{line.prediction_id}: step {step} was not taken in {PATIENCE} s"
                )
                return
            await asyncio.sleep(random.uniform(*AGAIN))
        self._ledger.acknowledge(line, step)

    async def webhook(self, body: bytes) -> bool:
        """Post one, signed now, by way of the proxy; whether it was acknowledged."""
        headers = signed(body, secret=self._cluster.secrets["TIDINGS_REPLICATE_SECRET"])
        url = f"{self._cluster.url}/api/webhooks/replicate"
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self._session.post(url, data=body, headers=headers) as response:
                return response.status == 200
        return False

    async def _event(self, line: Line, step: int) -> bool:
        return await self.append([NewRecord(line.prediction_id.encode(), _event(line, step))])

    async def append(self, records: Sequence[NewRecord]) -> bool:
        """Append to the events; whether they were acknowledged."""
        try:
            await self._log.append(EVENTS, records)
        except LogError:
            return False
        return True

    async def _make(self) -> None:
        """Have the provider make one now and then, the whole way: submitted, reported, archived."""
        number = 0
        async with self._cluster.client() as client:
            while not self._stopping.is_set():
                number += 1
                name = f"made-{number}"
                with contextlib.suppress(
                    Exception
                ):  # whatever a fault makes of it: what was written down must end
                    await client.create(
                        provider="replicate",
                        model="tidings-demo/pictures",
                        prompt="a fox",
                        prediction_id=name,
                    )
                    self._ledger.made.add(name)
                await self._rest(MADE_EVERY)

    async def _live(self) -> None:
        """Have groups made, and questions asked."""
        async with self._cluster.client() as client:
            await self.life.run(client, self._stopping)

    async def _say(self, name: str, event: Mapping[str, object]) -> bool:
        body = {"id": f"{name}-{event.get('status')}", **event}
        return await self.append([NewRecord(name.encode(), msgspec.json.encode(body))])

    async def flood(self, seconds: float) -> None:
        """One prediction, hundreds of events a second."""
        self._number += 1
        line = self._ledger.open(Line(f"hot{self._number}", Way.EVENT, OWNERS[0], UNENDING))
        key = line.prediction_id.encode()
        end = time.monotonic() + seconds
        while not line.ended:
            if time.monotonic() > end:
                line.last = line.tried + 1
            first, last = line.acknowledged + 1, min(line.last, line.acknowledged + FLOOD_BATCH)
            line.tried = last
            if await self.append(
                [NewRecord(key, _event(line, step)) for step in range(first, last + 1)]
            ):
                self._ledger.acknowledge(line, last)
                await asyncio.sleep(FLOOD_BATCH / FLOOD_RATE)
            else:
                await asyncio.sleep(AGAIN[0])

    async def poison(self, seconds: float) -> None:
        """Records that make no sense, by both ways; each must lie among the dead letters in the end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            nonsense = [NewRecord(b"poison", b"\xff nonsense")] * POISON_BATCH
            webhooks = [
                self.webhook(b'{"id":"poison","status":"dancing"}') for _ in range(POISON_BATCH)
            ]
            taken = await asyncio.gather(self.append(nonsense), *webhooks)
            self._ledger.poison += taken[0] * POISON_BATCH + sum(taken[1:])
            await asyncio.sleep(2 * POISON_BATCH / POISON_RATE)


def probe_names(partitions: int) -> list[str]:
    """A prediction for each partition."""
    numbers = list(range(partitions))
    found: dict[int, str] = {}
    tried = 0
    while len(found) < partitions:
        name = f"probe-{tried}"
        tried += 1
        found.setdefault(DefaultPartitioner()(name.encode(), numbers, numbers), name)
    return [found[number] for number in numbers]


def _event(line: Line, step: int) -> bytes:
    if step == 1:
        event: dict[str, object] = {
            "type": "create",
            "owner": line.owner,
            "model": "tests/load",
            "prompt": "a fox",
        }
    else:
        event = {"status": line.status(step), "logs": "x" * step}
    return msgspec.json.encode({"id": f"{line.prediction_id}-{step}", **event})


def _webhook(line: Line, step: int) -> bytes:
    status = line.status(step)
    body: dict[str, object] = {
        "id": line.prediction_id,
        "status": status,
        "model": "tests/load",
        "logs": "x" * step,
        "output": None,
    }
    if status is Status.SUCCEEDED:
        body["metrics"] = {"predict_time": 1.5}
    return msgspec.json.encode(body)
