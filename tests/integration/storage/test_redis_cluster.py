"""The store over the nodes of a real Valkey cluster.

Slots that move, nodes that die, and one that is careless.
"""

from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from tests.support.conditions import eventually
from tests.support.storage.samples import creation, fresh, prediction, writing
from tests.support.valkey_cluster import ValkeyCluster, ask
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.factory import open_store
from tidings.storage.prediction import Status
from tidings.storage.redis.store import RedisStore
from tidings.storage.store import Conflict, Outcome, PredictionStore


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """Three primaries, the first with a replica."""
    cluster = ValkeyCluster(replicas=1)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def slot_of(prefix: str, shard: int) -> int:
    return key_slot(f"{prefix}:{shard}".encode())


async def advanced(store: PredictionStore, ids: list[str], version: int) -> list[Outcome]:
    return await store.write(
        [writing(prediction(one, version, Status.PROCESSING), version - 1) for one in ids]
    )


async def test_every_node_has_a_part(cluster: ValkeyCluster) -> None:
    """A batch reaches all nodes and comes back whole; the store says how many nodes there are."""
    prefix = fresh("t")
    store = await open_store(f"{cluster.url}?prefix={prefix}&timeout=60")
    assert isinstance(store, RedisStore)
    ids = [fresh() for _ in range(300)]
    assert await store.write([creation(one) for one in ids]) == [None] * 300
    assert set(await store.load(ids)) == set(ids)
    for node in cluster.primaries:
        assert any(prefix.encode() in key for key in ask(node, "KEYS", f"*{prefix}*"))
    assert "a cluster with 3 primaries" in (await store.facts())["server"]
    await store.close()


async def test_slots_that_move(cluster: ValkeyCluster) -> None:
    """A slot that was moved to another node is found there within the same call, for reading and for writing."""
    prefix = fresh("t")
    store = await open_store(f"{cluster.url}?prefix={prefix}&timeout=60")
    ids = [fresh() for _ in range(100)]
    await store.write([creation(one) for one in ids])
    for shard in range(4):
        slot = slot_of(prefix, shard)
        cluster.move(
            slot, next(node for node in cluster.primaries[1:] if not cluster.has(node, slot))
        )
    assert await advanced(store, ids, 2) == [None] * 100
    for shard in range(4, 6):
        slot = slot_of(prefix, shard)
        cluster.move(
            slot, next(node for node in cluster.primaries[1:] if not cluster.has(node, slot))
        )
    found = await store.load(ids)
    assert {found[one].version for one in ids} == {2}
    for one in ids[:20]:
        assert await store.get(one) is not None
    await store.close()


async def test_a_slot_between_two_nodes(cluster: ValkeyCluster) -> None:
    """While a slot's keys are moved one by one its records wait.

    On either side a script would find some missing.
    """
    prefix = fresh("t")
    store = await open_store(f"{cluster.url}?prefix={prefix}&timeout=60&shards=1")
    first = creation(fresh())
    await store.write([first])
    slot = slot_of(prefix, 0)
    source = next(node for node in cluster.primaries if cluster.has(node, slot))
    target = next(node for node in cluster.primaries[1:] if node is not source)
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ask(source, "CLUSTER", "MYID").decode())
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ask(target, "CLUSTER", "MYID").decode())
    try:
        with pytest.raises(StoreUnavailable, match="moves a slot"):
            await advanced(store, [first.record.prediction_id], 2)
        assert ask(target, "CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    finally:
        for node in (source, target):
            ask(node, "CLUSTER", "SETSLOT", slot, "STABLE")
    assert await advanced(store, [first.record.prediction_id], 2) == [None]
    await store.close()


async def test_one_careless_node_is_enough(cluster: ValkeyCluster) -> None:
    """Each primary is checked.

    One that evicts, or keeps no append-only file, stops the start in one line.
    """
    careless = cluster.primaries[1]
    for name, bad, good in (
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("appendonly", "no", "yes"),
    ):
        ask(careless, "CONFIG", "SET", name, bad)
        try:
            with pytest.raises(StoreMisconfigured, match=f"set {name} {good}"):
                await open_store(f"{cluster.url}?timeout=60")
        finally:
            ask(careless, "CONFIG", "SET", name, good)


async def test_a_primary_dies(cluster: ValkeyCluster) -> None:
    """Calls fail with what a retry mends until the replica has taken over.

    Then the same store goes on, with everything.
    """
    store = await open_store(f"{cluster.url}?prefix={fresh('t')}&timeout=10")
    ids = [fresh() for _ in range(100)]
    await store.write([creation(one) for one in ids])
    dead = cluster.primaries[0]
    await eventually(lambda: ask(dead, "WAIT", 1, 1000) == 1, 30)  # the replica has it all
    dead.kill()

    async def written() -> list[Outcome] | None:
        try:
            return await advanced(store, ids, 2)
        except StoreUnavailable:
            return None

    outcomes = await eventually(written, 60) or []
    # What the living nodes took at the first attempt conflicts with itself at the second.
    assert set(outcomes) <= {None, Conflict(2)}
    found = await store.load(ids)
    assert {found[one].version for one in ids} == {2}
    await store.close()
