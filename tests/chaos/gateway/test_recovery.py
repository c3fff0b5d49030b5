"""No gap, no duplicate, no step back: clients that are cut, slow and forgetful, while everything changes."""

import asyncio
import random
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.conditions import eventually
from tests.support.gateway.pushing import (
    Push,
    hear,
    hear_until,
    nothing_more,
    pushing,
    say,
    subscribe,
)
from tidings.gateway.auth.quotas import SessionLimits
from tidings.storage.prediction import Status, encode
from tidings.storage.store import Page, Query
from tidings.streams.changes.codec import announcement, parse
from tidings.streams.log.protocol import CHANGES, Position, StoredRecord

PREDICTIONS = 40
CLIENTS = 30


class Follower:
    """A client that comes back with what it knows, and checks that versions only rise."""

    def __init__(self, push: Push, number: int) -> None:
        self.push = push
        self.random = random.Random(number)
        names = [f"p{one}" for one in range(PREDICTIONS)]
        self.wants: set[str] = set(names)
        self.watch: dict[str, Any] = {"all": True}
        if number % 3 == 1:
            self.wants = set(self.random.sample(names, 5))
            self.watch = {"predictions": sorted(self.wants)}
        elif number % 3 == 2:
            self.wants = {name for name in names if int(name[1:]) % 4 == 0}
            self.watch = {"owner": "o0"}
        self.slow = number % 5 == 0
        self.known: dict[str, int] = {}

    async def run(self, final: dict[str, int]) -> None:
        """Follow until everything has come to its end."""
        while not self.done(final):
            try:
                async with self.push.client(
                    max_queue=2, max_size=None, close_timeout=0.2
                ) as client:
                    await say(
                        client, type="subscribe", known=self.known, limit=10_000, **self.watch
                    )
                    async with asyncio.timeout(None if final else self.random.uniform(0.05, 0.5)):
                        while not self.done(final):
                            self.take(await hear(client, 20.0))
                            if self.slow and not final:
                                await asyncio.sleep(self.random.uniform(0, 0.02))
                    await client.close()
            except (TimeoutError, ConnectionClosed):
                await asyncio.sleep(self.random.uniform(0, 0.2))

    def take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        assert kind != "error", message
        if kind not in {"change", "snapshot", "deleted"}:
            return
        record = message.get("prediction", message)
        name, version = record["predictionId"], record["version"]
        assert version > self.known.get(name, 0), (
            f"{kind} of {name}: {version} after {self.known[name]}"
        )
        assert name in self.wants
        self.known[name] = version

    def done(self, final: dict[str, int]) -> bool:
        return bool(final) and all(self.at_end(name, final[name]) for name in self.wants)

    def at_end(self, name: str, version: int) -> bool:
        """Whether it has the last version; of what was deleted before it heard of it nobody tells it."""
        deleted = version < 0
        return self.known.get(name, version if deleted else 0) in {version, abs(version)}


async def change_everything(push: Push, seconds: float, late: random.Random) -> dict[str, int]:
    """Change random predictions for a while, announcing late and in batches, and then end or delete each.

    Returns:
        The last version of each; negative: deleted.
    """
    versions = dict.fromkeys([f"p{number}" for number in range(PREDICTIONS)], 0)
    waiting = []
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        name = late.choice(list(versions))
        versions[name] += 1
        owner = f"o{int(name[1:]) % 4}"
        waiting.append(
            await push.stand(
                name, versions[name], owner=owner, logs="x" * late.choice([10, 20_000])
            )
        )
        if late.random() < 0.2:
            await push.announce(*waiting)
            if late.random() < 0.2:
                await push.announce(*waiting)  # the log delivers at least once
            waiting = []
            await asyncio.sleep(0.005)
    await push.announce(*waiting)
    for name in versions:
        versions[name] += 1
        if late.random() < 0.3 and versions[name] > 1:
            await push.delete(name, versions[name], f"o{int(name[1:]) % 4}")
            versions[name] *= -1
        else:
            await push.change(
                name, versions[name], status=Status.SUCCEEDED, owner=f"o{int(name[1:]) % 4}"
            )
    return versions


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_client_ends_with_the_newest(seed: int) -> None:
    """Through cuts, slow reading, late and repeated announcements every client sees versions rise, and the last."""
    limits = SessionLimits(pending_records=20, pending_bytes=200_000)
    async with pushing(limits=limits) as push:
        final: dict[str, int] = {}
        followers = [Follower(push, number) for number in range(CLIENTS)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for follower in followers:
                group.create_task(follower.run(final))
            final.update(await change_everything(push, 3.0, random.Random(seed)))
        assert all(follower.done(final) for follower in followers)


async def test_changes_do_not_overtake_snapshots() -> None:
    """A change that comes while a further page is read arrives behind the snapshot of the first page."""
    async with pushing() as push, push.client(max_size=None) as client:
        for number in range(250):
            await push.stand(f"p{number:03}", 1, created_at=number)
        pages = 0
        listed = push.store.list

        async def slow(query: Query) -> Page:
            nonlocal pages
            pages += 1
            if pages == 2:
                await push.change("p249", 2)
                await eventually(lambda: push.hub.version("p249") == 2)
            return await listed(query)

        push.store.list = slow  # type: ignore[method-assign]
        heard = await subscribe(client, all=True)
        seen = [one["prediction"] for one in heard if "prediction" in one]
        assert [one["version"] for one in seen if one["predictionId"] == "p249"] == [1, 2]
        assert len({one["predictionId"] for one in seen}) == 250


async def test_a_snapshot_in_the_middle_of_a_fan_out_is_not_repeated() -> None:
    """A session that is shown a version while its announcement is on the way to many does not get it again."""
    async with pushing() as push, push.client() as first, push.client() as second:
        clients = (first, second)
        for client in clients:
            await subscribe(client, predictions=["p1"])
        record = await push.stand("p1", 1)
        new = announcement(record, encode(record), position=Position(0, 0))
        change = parse(StoredRecord(CHANGES, 0, 0, 0, new.key, new.value, new.headers))
        assert change is not None
        steps = push.hub.fan_out([change], slice=1)
        next(steps)
        for client in clients:
            await subscribe(client, owner="somebody", known={})
            await say(client, type="subscribe", predictions=["p1"])
            await hear_until(client, "synced")
        for _ in steps:
            pass
        for client in clients:
            assert await nothing_more(client) == []
            await say(client, type="unsubscribe", predictions=["p1"])
            await hear_until(client, "unsubscribed")
            heard = await subscribe(client, predictions=["p1"])
            assert [one["type"] for one in heard] == ["subscribed", "snapshot", "synced"]
