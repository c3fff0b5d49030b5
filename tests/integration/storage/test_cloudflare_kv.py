"""Cloudflare KV beyond the contract of all stores.

Its limits, its staleness, and a writer that lives with both.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

from tests.support import workerd
from tests.support.cloudflare_emulator import ACCOUNT, TOKEN, CloudflareEmulator
from tests.support.conditions import eventually
from tests.support.faulty_proxy import FaultyProxy
from tests.support.storage.samples import (
    HOUR,
    creation,
    fresh,
    prediction,
    tombstone,
    writing,
)
from tests.support.workerd import Workerd
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.cloudflare.http import CloudflareHttp
from tidings.storage.cloudflare.kv_codec import MAX_VALUE, PREDICTION
from tidings.storage.cloudflare.kv_store import CloudflareKvStore
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.factory import open_store
from tidings.storage.prediction import Source
from tidings.storage.store import Conflict, Ownership, Query, Write, WriteRefused

NAMESPACE = "fedcba9876543210fedcba9876543210"


@pytest.fixture
def emulator() -> Iterator[CloudflareEmulator]:
    """Cloudflare with its true limits and one empty namespace."""
    emulator = CloudflareEmulator()
    emulator.start()
    emulator.namespace(NAMESPACE)
    yield emulator
    emulator.close()


@asynccontextmanager
async def opened(emulator: CloudflareEmulator, **options: Any) -> AsyncIterator[CloudflareKvStore]:
    settings: dict[str, Any] = {
        "token": TOKEN,
        "base_url": emulator.url,
        "timeout": 30.0,
        **options,
    }
    store = await CloudflareKvStore.open(f"cloudflare-kv://{ACCOUNT}/{NAMESPACE}", **settings)
    try:
        yield store
    finally:
        await store.close()


def in_kv(emulator: CloudflareEmulator, one: str) -> str | None:
    entry = emulator.namespace(NAMESPACE).seen(PREDICTION + one, time.time() + emulator.staleness)
    return None if entry is None else entry.value


async def projection(store: CloudflareKvStore, writes: list[Write] | None = None) -> None:
    await store.restore(writes or [])


async def test_a_write_a_second(emulator: CloudflareEmulator) -> None:
    """A hundred versions of one key within a moment cost two writes, none too early, and the newest stands."""
    async with opened(emulator) as store:
        await projection(store)
        one = fresh()
        before = emulator.writes
        for version in range(1, 101):
            assert await store.write([writing(prediction(one, version), version - 1)]) == [None]
            if version == 1:
                await eventually(lambda: in_kv(emulator, one))
        await store.flush()
        last = prediction(one, 100)
        assert (await store.load([one]))[one].version == 100
        assert f'"version":{last.version}' in str(in_kv(emulator, one))
        assert emulator.writes - before == 2
        assert emulator.too_fast == []


async def test_many_in_one_request(emulator: CloudflareEmulator) -> None:
    """5,000 records go in a handful of requests."""
    async with opened(emulator) as store:
        await projection(store)
        ids = [fresh() for _ in range(5000)]
        before = len(emulator.requests)
        assert await store.write([creation(one) for one in ids]) == [None] * 5000
        await store.flush()
        assert all(in_kv(emulator, one) for one in ids)
        assert len(emulator.requests) - before <= 3


async def test_validates_against_its_own_copy(emulator: CloudflareEmulator) -> None:
    """However stale KV is, a writer decides by what it wrote itself, and reads what it wrote."""
    emulator.staleness = 60.0
    async with opened(emulator) as store, opened(emulator) as reader:
        one = fresh()
        assert await store.write([creation(one)]) == [None]
        assert await store.write([creation(one)]) == [Conflict(1)]
        assert await store.write([writing(prediction(one, 2), 1)]) == [None]
        found = await store.get(one)
        assert found is not None
        assert found.version == 2
        assert await reader.get(one) is None
        emulator.staleness = 0.0
        assert await reader.get(one) == found


async def test_restored_from_the_log(emulator: CloudflareEmulator) -> None:
    """What was restored is the truth.

    Loads don't ask KV, and KV gets it again in place of what lay there.
    """
    one, two, three = fresh(), fresh(), fresh()
    async with opened(emulator) as former:
        await former.write([creation(one, prompt="former"), creation(three)])
    async with opened(emulator) as store:
        newest = [writing(prediction(one, 5), 4), writing(prediction(two, 2), 1)]
        await projection(
            store, [writing(prediction(one, 3), 2), *newest, writing(prediction(one, 4), 3)]
        )
        before = len(emulator.requests)
        found = await store.load([one, two, three])
        assert {key: stored.version for key, stored in found.items()} == {one: 5, two: 2}
        assert await store.write([writing(prediction(two, 2, prompt="x"), 1)]) == [Conflict(2)]
        assert "POST /bulk/get" not in emulator.requests[before:]
        await store.flush()
        assert in_kv(emulator, one) == newest[0].encoded.decode()
        assert in_kv(emulator, two) == newest[1].encoded.decode()


async def test_refreshed_after_a_zombie(emulator: CloudflareEmulator) -> None:
    """An older version that another writer puts over the newest is put right by `refresh`.

    Forgotten keys are let be.
    """
    one, other = fresh(), fresh()
    async with opened(emulator) as store, opened(emulator) as zombie:
        await projection(store, [writing(prediction(one, 5), 4), writing(prediction(other, 5), 4)])
        await store.flush()
        await projection(zombie, [writing(prediction(one, 4), 3), writing(prediction(other, 4), 3)])
        await zombie.flush()
        assert '"version":4' in str(in_kv(emulator, one))
        store.forget([other])
        store.refresh([one, other])
        await store.flush()
        assert '"version":5' in str(in_kv(emulator, one))
        assert '"version":4' in str(in_kv(emulator, other))


async def test_limit_of_requests(emulator: CloudflareEmulator) -> None:
    """Where the account is over its limit nobody asks again before `retry-after` has passed.

    Then all is written.
    """
    emulator.limit, emulator.window = 20, 2.0
    async with opened(emulator) as store:
        await projection(store)
        for _ in range(25):
            if await _refused(store):
                break
        else:
            pytest.fail("the emulator never refused")
        asked = len(emulator.requests)
        one = fresh()
        await store.write([creation(one)])
        with pytest.raises(StoreUnavailable, match="refuses requests"):
            await store.get(fresh())
        assert len(emulator.requests) == asked
        await eventually(lambda: in_kv(emulator, one))


async def _refused(store: CloudflareKvStore) -> bool:
    try:
        await store.get(fresh())
    except StoreUnavailable:
        return True
    return False


async def test_down_for_a_moment(emulator: CloudflareEmulator) -> None:
    """Failures of Cloudflare's are repeated until it takes the write."""
    async with opened(emulator) as store:
        one = fresh()
        emulator.fail = 1
        assert await store.write([creation(one)]) == [None]
        await projection(store)
        emulator.fail = 5
        assert await store.write([writing(prediction(one, 2), 1)]) == [None]
        await store.flush()
        assert '"version":2' in str(in_kv(emulator, one))


async def test_down_for_longer(emulator: CloudflareEmulator) -> None:
    """Without a log a write that KV does not take is not acknowledged.

    It stays queued, and lands by itself.
    """
    async with opened(emulator, timeout=1.0) as store:
        one = fresh()
        await store.write([creation(one)])
        emulator.fail = 10_000
        with pytest.raises(StoreUnavailable, match="stays queued"):
            await store.write([writing(prediction(one, 2), 1)])
        emulator.fail = 0
        await eventually(lambda: '"version":2' in str(in_kv(emulator, one)), within=60)
        await projection(store)
        emulator.fail = 10_000
        assert await store.write([writing(prediction(one, 3), 2)]) == [None]
        with pytest.raises(StoreUnavailable):
            await store.flush()
        emulator.fail = 0
        await eventually(lambda: '"version":3' in str(in_kv(emulator, one)), within=60)


async def test_closing_writes_the_rest(emulator: CloudflareEmulator) -> None:
    """What is queued when the store is closed is written first, positions too."""
    one = fresh()
    async with opened(emulator) as store:
        await projection(store)
        await store.write([creation(one, source=Source("l", {"3": 7}))])
        await store.write([writing(prediction(one, 2, source=Source("l", {"3": 8})), 1)])
    async with opened(emulator) as other:
        assert (await other.load([one]))[one].version == 2
        assert await other.positions() == {3: 8}


async def test_gone_at_their_time_to_live(emulator: CloudflareEmulator) -> None:
    """KV is told to let go of a record at its time to live, though it is purged days later.

    A record that has expired already is not given to KV, and taken from it where it lies there. The
    writer's copy, and the changes that restore it, keep its version all the same.
    """
    async with opened(emulator) as store:
        await projection(store)
        one, now = fresh(), SYSTEM_CLOCK.ms()
        times = {"expires_at": now + HOUR, "purge_at": now + 8 * 24 * HOUR}
        await store.write([writing(prediction(one), 0, **times)])
        await store.flush()
        entry = emulator.namespace(NAMESPACE).seen(PREDICTION + one, time.time())
        assert entry is not None
        assert abs((entry.expiration or 0) - (now + HOUR) / 1000) < 2
        await store.write(
            [writing(prediction(one, 2), 1, expires_at=now - 1, purge_at=now + 8 * 24 * HOUR)]
        )
        await store.flush()
        assert in_kv(emulator, one) is None
        assert (await store.load([one]))[one].version == 2
        store.refresh([one])
        await store.flush()
        assert in_kv(emulator, one) is None


async def test_deleted_ones_stay_until_they_are_purged(emulator: CloudflareEmulator) -> None:
    """A tombstone has no time to live: it lies in KV until it is purged."""
    async with opened(emulator) as store:
        one, purge_at = fresh(), SYSTEM_CLOCK.ms() + 8 * 24 * HOUR
        await store.write([creation(one)])
        await store.write([writing(tombstone(one, 2), 1, purge_at=purge_at)])
        entry = emulator.namespace(NAMESPACE).seen(
            PREDICTION + one, time.time() + emulator.staleness
        )
        assert entry is not None
        assert abs((entry.expiration or 0) - purge_at / 1000) < 2


async def test_expiry_is_never_too_near(emulator: CloudflareEmulator) -> None:
    """KV takes no expiry within 60 s.

    Records that end sooner live as long as that, and are hidden before.
    """
    async with opened(emulator) as store, opened(emulator) as reader:
        soon, later, due = fresh(), fresh(), SYSTEM_CLOCK.ms() + 400
        await store.write(
            [
                writing(
                    prediction(soon),
                    0,
                    expires_at=due,
                    purge_at=due + 10,
                )
            ]
        )
        await eventually(lambda: SYSTEM_CLOCK.ms() > due, within=5)
        await store.write([writing(prediction(later), 0, purge_at=SYSTEM_CLOCK.ms() + HOUR)])
        assert await reader.get(soon) is None
        assert await reader.get(later) is not None
        entry = emulator.namespace(NAMESPACE).seen(PREDICTION + later, time.time())
        assert entry is not None
        assert abs((entry.expiration or 0) - (SYSTEM_CLOCK.ms() + HOUR) / 1000) < 10


async def test_refused_alone(emulator: CloudflareEmulator) -> None:
    """A record over KV's 25 MiB is refused; the others of its batch are written."""
    async with opened(emulator) as store:
        large, small = fresh(), fresh()
        refusal, written = await store.write(
            [creation(large, logs="x" * MAX_VALUE), creation(small)]
        )
        assert isinstance(refusal, WriteRefused)
        assert written is None
        assert in_kv(emulator, small)


async def test_long_owners(emulator: CloudflareEmulator) -> None:
    """An owner or model that metadata has no room for is found all the same, by reading the value."""
    async with opened(emulator) as store, opened(emulator) as reader:
        owner, odd = "o" * 2000, "ünï ☃%"
        long, short = (
            creation(fresh(), owner=owner, model="m"),
            creation(fresh(), owner=odd, model=odd),
        )
        await store.write([long, short])
        assert (await reader.list(Query(owner=owner, model="m"))).items == [long.stored]
        assert (await reader.list(Query(owner=odd, model=odd))).items == [short.stored]
        assert (await reader.list(Query(owner="other"))).items == []


async def test_listing_reads_the_page_alone(emulator: CloudflareEmulator) -> None:
    """A listing goes through the keys' metadata, and reads values for its own page only.

    Tags are refused.
    """
    async with opened(emulator) as store:
        await store.write(
            [creation(fresh(), owner=f"o{n % 100}", created_at=n) for n in range(2500)]
        )
    async with opened(emulator) as reader:
        before = len(emulator.requests)
        page = await reader.list(Query(owner="o7", limit=20))
        assert [stored.standing() for stored in page.items] == sorted(
            (stored.standing() for stored in page.items),
            key=lambda record: -getattr(record, "created_at", 0),
        )
        assert len(page.items) == 20
        assert emulator.requests[before:] == ["GET /keys"] * 3 + ["POST /bulk/get"]
        with pytest.raises(ValueError, match="tag"):
            await reader.list(Query(tag="t"))


async def test_wrong_settings(emulator: CloudflareEmulator) -> None:
    """Token, account, namespace and URL.

    Each mistake is one line at the start that names what to set.
    """
    wrong: list[tuple[str, dict[str, Any], str]] = [
        (
            f"cloudflare-kv://{ACCOUNT}/{NAMESPACE}",
            {"token": "tok-mine"},
            "TIDINGS_CLOUDFLARE_TOKEN",
        ),
        (f"cloudflare-kv://{ACCOUNT}/{NAMESPACE}", {"token": None}, "TIDINGS_CLOUDFLARE_TOKEN"),
        (f"cloudflare-kv://{ACCOUNT}/missing", {}, "namespace of the account"),
        (f"cloudflare-kv://nobody/{NAMESPACE}", {}, "namespace of the account"),
        ("cloudflare-kv://", {}, "ACCOUNT/NAMESPACE"),
        (f"cloudflare-kv://{ACCOUNT}", {}, "ACCOUNT/NAMESPACE"),
        ("cloudflare-kv+worker://", {"worker_token": "t"}, "host"),
        ("cloudflare-kv+worker://host", {}, "TIDINGS_WORKER_TOKEN"),
    ]
    for url, options, words in wrong:
        with pytest.raises(StoreMisconfigured, match=words) as caught:
            await open_store(url, **({"token": TOKEN, "base_url": emulator.url} | options))
        assert "tok-mine" not in str(caught.value)


async def test_worker_without_a_namespace() -> None:
    """A Worker that has no KV namespace bound says so at the start."""
    url, token = workerd.shared()
    with pytest.raises(StoreMisconfigured, match="bind one as KV"):
        await open_store(f"cloudflare-kv+worker+{url}", worker_token=token)


async def test_worker_at_kv_limits(emulator: CloudflareEmulator) -> None:
    """Through the Worker too a key is written once a second, and what KV refuses as too fast is written again."""
    workerd.needed()
    worker = Workerd(shards=1, kv_port=emulator.binding_port)
    try:
        worker.start()
        options: dict[str, Any] = {"worker_token": workerd.TOKEN, "timeout": 30.0}
        store = await CloudflareKvStore.open(f"cloudflare-kv+worker+{worker.url}", **options)
        other = await CloudflareKvStore.open(f"cloudflare-kv+worker+{worker.url}", **options)
        one = fresh()
        await store.write([creation(one)])
        await store.write([writing(prediction(one, 2), 1)])
        assert emulator.too_fast == []
        await other.write([writing(prediction(one, 3), 2)])
        assert emulator.too_fast
        await asyncio.to_thread(worker.restart)
        assert (await other.load([one]))[one].version == 3
        await store.close()
        await other.close()
    finally:
        worker.close()


async def test_bad_network(emulator: CloudflareEmulator) -> None:
    """Answers lost or cut, half-open connections.

    No call hangs, nothing acknowledged is missing, and it goes on.
    """
    port = int(emulator.url.split(":")[2].split("/")[0])
    async with FaultyProxy(port) as proxy:
        url = emulator.url.replace(f":{port}", f":{proxy.port}")
        async with opened(emulator, base_url=url, timeout=5.0) as store:
            one, two = fresh(), fresh()
            proxy.lose_answers = 1
            assert await store.write([creation(one)]) == [None]
            assert in_kv(emulator, one)
            proxy.cut_answers = 2
            found = await store.load([one, fresh()])
            assert found[one].version == 1
            proxy.freeze()
            async with asyncio.timeout(12):
                with pytest.raises(StoreUnavailable):
                    await store.get(two)
                with pytest.raises(StoreUnavailable, match="stays queued"):
                    await store.write([writing(prediction(one, 2), 1)])
            proxy.thaw()
            await eventually(lambda: '"version":2' in str(in_kv(emulator, one)), within=60)
            assert await store.write([creation(two)]) == [None]
            assert in_kv(emulator, two)


async def test_claimed_once(emulator: CloudflareEmulator) -> None:
    """The first claim stands for those that come later; a claim that KV did not take was none."""
    async with opened(emulator, timeout=1.0) as store, opened(emulator) as other:
        await store.load(["warm"])
        emulator.fail = 10_000
        with pytest.raises(StoreUnavailable):
            await store.claim(Ownership(log="a"))
        emulator.fail = 0
        assert await other.claim(Ownership(log="b")) == Ownership(log="b")
        assert await store.claim(Ownership(log="a")) == Ownership(log="b")


@pytest.mark.parametrize("ahead", [0, 90, -3600, None])
async def test_clock_skew(ahead: float | None) -> None:
    """How far Cloudflare's clock is off comes from the answers' `Date`.

    Where a proxy leaves that out nothing is said.
    """

    async def dated(request: web.Request) -> web.Response:
        date = "none" if ahead is None else formatdate(time.time() + ahead, usegmt=True)
        return web.Response(headers={"Date": date})

    application = web.Application()
    application.router.add_get("/", dated)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    http = CloudflareHttp(
        f"http://127.0.0.1:{runner.addresses[0][1]}",
        "t",
        lambda answer: StoreUnavailable(str(answer)),
    )
    try:
        assert http.skew == {}
        await http.call("GET", "/")
        skew = http.skew.get("clock skew (ms)")
        if ahead is None:
            assert skew is None
        else:
            assert skew is not None
            assert (
                abs(int(skew) - ahead * 1000) < 20_000
            )  # the machine may be busy between the two readings
    finally:
        await http.close()
        await runner.cleanup()
