"""Word to other servers on a real broker, by two notifiers between which the partitions move."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.receiver import Receiver
from tests.unit.streams.notifications.test_notifier import (
    PATH,
    QUICK,
    World,
    notifying,
    record,
)
from tidings.storage.prediction import Prediction, Status, encode
from tidings.streams.changes.codec import announcement
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, Log, NewRecord, Position
from tidings.streams.notifications.notifier import GROUP

pytestmark = pytest.mark.kafka
PARTITIONS = 4
ALL = [f"prediction.{status}" for status in PATH]


class Cluster:
    """Opens the test's own log, once for each process that there would be."""

    def __init__(self, url: str, prefix: str, stack: AsyncExitStack) -> None:
        self._url, self._prefix, self._stack = url, prefix, stack

    async def log(self) -> Log:
        opened = await open_log(
            self._url, topic_prefix=self._prefix, partitions=PARTITIONS, deliveries=True
        )
        self._stack.push_async_callback(opened.close)
        return opened


@pytest.fixture
async def cluster(kafka_url: str, topic_prefix: str) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(kafka_url, topic_prefix, stack)


def change_of(one: Prediction) -> NewRecord:
    """Its announcement, in the partition that is its own."""
    partition = int(one.prediction_id[1:]) % PARTITIONS
    return announcement(one, encode(one), position=Position(partition, one.version))


async def at_least(receiver: Receiver, count: int) -> None:
    """Wait until so many were taken."""
    await eventually(lambda: len(receiver.taken) >= count, 60)


async def test_what_was_before_the_first_start_is_told_to_nobody(cluster: Cluster) -> None:
    """The group begins at the ends, in every partition, and goes on from its offsets afterwards."""
    log = await cluster.log()
    everything = frozenset(Status)
    async with Receiver().serving() as receiver:
        everyone = [(receiver.url, everything)]
        await log.append(CHANGES, [change_of(record(f"p{n}", 3)) for n in range(8)])
        async with notifying(receiver, log, targets=everyone):
            await log.append(CHANGES, [change_of(record(f"p{n}", 3)) for n in range(8, 16)])
            await eventually(lambda: len(receiver.taken) == 24, 20)
        assert sum((await log.committed(CHANGES, GROUP)).values()) == 16
        await log.append(CHANGES, [change_of(record(f"p{n}", 2)) for n in range(16, 24)])
        async with notifying(receiver, await cluster.log(), targets=everyone):
            await eventually(lambda: len(receiver.taken) == 40, 20)
        assert not [n for n in range(8) if receiver.of(f"p{n}")]
        assert all(receiver.of(f"p{n}") == ALL for n in range(8, 16))
        assert receiver.seen == 40


async def test_partitions_that_move_lose_nothing(cluster: Cluster) -> None:
    """Notifiers come and go under load: each step is told, in order, and repeats have the same id."""
    log, count = await cluster.log(), 0
    dice = random.Random(7)
    async with Receiver().serving() as receiver, AsyncExitStack() as stack:
        everyone = [(receiver.url, frozenset(Status))]
        # Every ninth answer is a failure, so that tries, order and moves meet.
        receiver.answers = [500 if dice.random() < 0.1 else 200 for _ in range(2000)]
        options: dict[str, Any] = {"targets": everyone, "schedule": QUICK}
        await stack.enter_async_context(notifying(receiver, log, **options))

        async def begin(more: int) -> None:
            """Have further predictions go their way; not so many that all wait."""
            nonlocal count
            some, count = range(count, count + more), count + more
            for step in range(1, len(PATH) + 1):
                await log.append(CHANGES, [change_of(record(f"p{n}", step)) for n in some])
            await at_least(receiver, 3 * count - 60)

        for _ in range(3):
            await begin(30)
            async with notifying(receiver, await cluster.log(), **options) as other:

                async def has_share(other: World = other) -> bool:
                    """It tells of some, too; as long as it has no partition there must be more to tell."""
                    if other.notifier.dispatcher.delivered >= 5:
                        return True
                    await begin(1)
                    return False

                await eventually(has_share, 60)
        await eventually(
            lambda: all(receiver.of(f"p{n}")[-1:] == ALL[-1:] for n in range(count)), 60
        )
    ids: dict[tuple[str, str], set[str]] = {}
    for message_id, told in receiver.taken:
        ids.setdefault((told["data"]["predictionId"], told["type"]), set()).add(message_id)
    assert len(ids) == 3 * count
    assert all(len(one) == 1 for one in ids.values())
    for n in range(count):
        assert list(dict.fromkeys(receiver.of(f"p{n}"))) == ALL


async def test_what_waits_is_taken_over_by_another(cluster: Cluster) -> None:
    """A notifier that starts elsewhere sends what the former one could not, and removes it."""
    log, receiver = await cluster.log(), Receiver()
    async with receiver.serving():
        pass  # its port is known now, and nobody listens there
    everyone = [(receiver.url, frozenset({Status.SUCCEEDED}))]
    async with notifying(receiver, log, targets=everyone) as world:
        await log.append(CHANGES, [change_of(record(f"p{n}", 3)) for n in range(20)])
        await eventually(lambda: world.notifier.dispatcher.failed >= 5, 20)
    async with receiver.serving():
        async with notifying(receiver, await cluster.log(), targets=everyone) as world:
            await eventually(lambda: len({one for one, _ in receiver.taken}) == 20, 20)
            await eventually(lambda: world.notifier.dispatcher.waiting == 0, 20)
        async with notifying(receiver, await cluster.log(), targets=everyone) as world:
            assert world.notifier.dispatcher.waiting == 0
    assert len(receiver.taken) == 20
