"""Durable Objects beyond the contract of all stores.

On the real workerd, killed, frozen, cut off and misconfigured.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.support import workerd
from tests.support.broker import free_port
from tests.support.conditions import eventually
from tests.support.faulty_proxy import FaultyProxy
from tests.support.storage.samples import creation, fresh, prediction, tombstone, writing
from tests.support.workerd import TOKEN, Workerd
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.cloudflare.durable_objects import MAX_RECORD, DurableObjectsStore
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.factory import open_store
from tidings.storage.prediction import Status, encode
from tidings.storage.store import Conflict, Query, Write, WriteRefused

LAYOUTS = ("sharded", "one-per-prediction")


@pytest.fixture(params=LAYOUTS)
def own_worker(request: pytest.FixtureRequest) -> Iterator[Workerd]:
    """A workerd of the test's own, for tests that harm it."""
    workerd.needed()
    worker = Workerd(layout=request.param, shards=8)
    worker.start()
    yield worker
    worker.close()


@asynccontextmanager
async def opened(
    url: str, timeout: float = 30.0, token: str = TOKEN
) -> AsyncIterator[DurableObjectsStore]:
    store = await DurableObjectsStore.open(
        f"durable-objects+{url}", worker_token=token, timeout=timeout
    )
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def place() -> str:
    """The URL of a space of the test's own on the run's Worker."""
    url, _ = workerd.shared()
    return f"{url}/{fresh('space')}"


class Load:
    """Writers that move predictions on, each remembering what was acknowledged to it."""

    def __init__(self, store: DurableObjectsStore, owner: str, seed: int) -> None:
        self._store = store
        self._owner = owner
        self._chance = random.Random(seed)
        self.acknowledged: dict[str, Write] = {}
        self.stopped = False

    async def run(self) -> None:
        while not self.stopped:
            batch = [self._next() for _ in range(20)]
            batch = list({write.record.prediction_id: write for write in batch}.values())
            try:
                outcomes = await self._store.write(batch)
            except StoreUnavailable:
                await self._adopt(batch)
                continue
            for write, outcome in zip(batch, outcomes, strict=True):
                assert outcome is None, f"{write.record.prediction_id} {write.expected} {outcome}"
                self.acknowledged[write.record.prediction_id] = write

    def _next(self) -> Write:
        standing = self._chance.choice(list(self.acknowledged.values()) or [None])
        if standing is None or self._chance.random() < 0.5:
            return creation(fresh(), owner=self._owner)
        record = standing.record
        status = self._chance.choice(list(Status))
        changed = prediction(
            record.prediction_id, record.version + 1, status, created_at=1, owner=self._owner
        )
        return writing(changed, record.version)

    async def _adopt(self, batch: list[Write]) -> None:
        """What the store says stands after an outcome that nobody knows.

        The old or the new, nothing else.
        """
        ids = [write.record.prediction_id for write in batch]
        while True:
            try:
                found = await self._store.load(ids)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
        for write in batch:
            stored = found.get(write.record.prediction_id)
            if stored is not None and stored.version == write.record.version:
                assert stored.encoded == write.encoded
                self.acknowledged[write.record.prediction_id] = write


async def test_killed_under_load(own_worker: Workerd) -> None:
    """The server killed five times under load, and started again.

    Nothing acknowledged is lost, all of it is listed.
    """
    owner = fresh("owner")
    async with opened(own_worker.url) as store:
        loads = [Load(store, owner, seed) for seed in range(4)]
        async with asyncio.TaskGroup() as group:
            for load in loads:
                group.create_task(load.run())
            for _ in range(5):
                before = sum(len(load.acknowledged) for load in loads)
                await eventually(
                    lambda: sum(len(load.acknowledged) for load in loads) > before + 50,  # noqa: B023
                    within=60,
                )
                await asyncio.to_thread(own_worker.restart)
            for load in loads:
                load.stopped = True
        acknowledged = {one: write for load in loads for one, write in load.acknowledged.items()}
        found = await store.load(list(acknowledged))
        assert {one: found[one].encoded for one in acknowledged} == {
            one: write.encoded for one, write in acknowledged.items()
        }
        for status in Status:
            listed: set[str] = set()
            cursor = None
            while True:
                page = await store.list(Query(owner=owner, status=status, limit=500, cursor=cursor))
                listed.update(stored.standing().prediction_id for stored in page.items)
                if (cursor := page.cursor) is None:
                    break
            expected = {one for one, write in acknowledged.items() if write.stored.status is status}
            assert expected <= listed


async def test_lost_answers(place: str) -> None:
    """A batch whose answer is lost or cut on the way is applied once, and reported as written."""
    port = int(place.split(":")[2].split("/")[0])
    async with (
        FaultyProxy(port) as proxy,
        opened(place.replace(f":{port}", f":{proxy.port}")) as store,
    ):
        new, moved, stale = fresh(), fresh(), fresh()
        await store.write([creation(moved), creation(stale)])
        proxy.lose_answers = 1
        batch = [creation(new), writing(prediction(moved, 2), 1), writing(prediction(stale, 9), 8)]
        assert await store.write(batch) == [None, None, Conflict(1)]
        assert proxy.lose_answers == 0
        proxy.cut_answers = 1
        again = [writing(prediction(new, 2), 1), writing(prediction(moved, 3), 2)]
        assert await store.write(again) == [None, None]
        found = await store.load([new, moved, stale])
        assert [found[one].version for one in (new, moved, stale)] == [2, 3, 1]
        proxy.cut_answers = 1
        assert set(await store.load([new, moved])) == {new, moved}


async def test_time_limits(place: str) -> None:
    """Half-open, slow and refusing.

    Each call ends within its limit, and works again once the network does.
    """
    port = int(place.split(":")[2].split("/")[0])
    async with (
        FaultyProxy(port) as proxy,
        opened(place.replace(f":{port}", f":{proxy.port}"), timeout=1.0) as store,
    ):
        one = fresh()
        await store.write([creation(one)])
        proxy.freeze()
        calls = (
            store.get(one),
            store.load([one]),
            store.write([creation(fresh())]),
            store.list(Query()),
        )
        async with asyncio.timeout(5):
            results = await asyncio.gather(*calls, store.positions(), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 5
        proxy.thaw()
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.get(one)
        proxy.refusing = False
        proxy.latency = 0.1
        assert await store.get(one) is not None


async def test_frozen_server(own_worker: Workerd) -> None:
    """A workerd that stands still is unavailable within the time limit, and goes on where it was when it moves."""
    async with opened(own_worker.url, timeout=1.0) as store:
        one = fresh()
        await store.write([creation(one)])
        own_worker.freeze()
        with pytest.raises(StoreUnavailable, match="has not answered"):
            await store.get(one)
        own_worker.thaw()
        assert await eventually(lambda: store.get(one)) is not None


async def test_refused_alone(place: str) -> None:
    """A record too large for an object is refused, on both sides of the wire.

    The others of its batch are written.
    """
    async with opened(place) as store:
        large, small, largest = fresh(), fresh(), fresh()
        batch = [creation(large, logs="x" * MAX_RECORD), creation(small)]
        refusal, written = await store.write(batch)
        assert isinstance(refusal, WriteRefused)
        assert written is None
        room = MAX_RECORD - len(creation(largest, logs="").encoded)
        assert await store.write([creation(largest, logs="x" * room)]) == [None]
        assert set(await store.load([large, small, largest])) == {small, largest}
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {TOKEN}"}) as http:
        op = {"id": large, "if_version": "0", "version": "1", "status": "starting", "created_at": 1}
        ops = [op | {"doc": "ü" * (MAX_RECORD // 2 + 1)}, op | {"id": fresh(), "doc": "{}"}]
        async with http.post(f"{place}/v1/batch", json={"ops": ops}) as answer:
            results = (await answer.json())["results"]
        assert "at most" in results[0]["refused"]
        assert results[1] is None


async def test_large_records(place: str) -> None:
    """Batches, loads and listings of more bytes than one request carries are split, and complete."""
    async with opened(place) as store:
        ids = [fresh() for _ in range(40)]
        writes = [creation(one, logs=one * 70_000, owner="o") for one in ids]
        assert await store.write(writes) == [None] * 40
        found = await store.load(ids)
        assert all(found[write.record.prediction_id].encoded == write.encoded for write in writes)
        listed: list[str] = []
        cursor = None
        while True:
            page = await store.list(Query(owner="o", limit=100, cursor=cursor))
            listed += [stored.standing().prediction_id for stored in page.items]
            if (cursor := page.cursor) is None:
                break
        assert sorted(listed) == sorted(ids)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_alarms_purge(layout: str) -> None:
    """What is due goes without anybody sweeping, records and tombstones, and nothing else goes."""
    workerd.needed()
    worker = Workerd(layout=layout, shards=2, alarm_delay=0)
    try:
        worker.start()
        async with opened(worker.url) as store:
            due, gone, later = fresh(), fresh(), fresh()
            await store.write([creation(gone, owner="o")])
            await store.write(
                [
                    writing(prediction(due, owner="o"), 0, purge_at=SYSTEM_CLOCK.ms() + 300),
                    writing(tombstone(gone, 2), 1, purge_at=SYSTEM_CLOCK.ms() + 300),
                    writing(prediction(later, owner="o"), 0, purge_at=SYSTEM_CLOCK.ms() + 600_000),
                ]
            )

            async def purged() -> bool:
                return set(await store.load([due, gone, later])) == {later}

            await eventually(purged, within=30)
            await asyncio.to_thread(worker.restart)
            assert [
                stored.standing().prediction_id
                for stored in (await store.list(Query(owner="o"))).items
            ] == [later]
            assert await store.write([creation(due)]) == [None]
    finally:
        worker.close()


async def test_an_object_that_holds_nothing_keeps_no_storage() -> None:
    """A record that was purged, an id that was only asked for and a write that was refused leave nothing on the disk."""
    workerd.needed()
    worker = Workerd(layout="one-per-prediction", shards=1, alarm_delay=0)

    async def gone(*ids: str) -> bool:
        return not await store.load(ids)

    try:
        worker.start()
        async with opened(worker.url) as store:
            once, again, swept, never = (
                fresh("once"),
                fresh("again"),
                fresh("swept"),
                fresh("never"),
            )
            soon = SYSTEM_CLOCK.ms() + 300
            await store.write([writing(prediction(one), 0, purge_at=soon) for one in (once, again)])
            await store.write([writing(prediction(swept), 0, purge_at=SYSTEM_CLOCK.ms() + 600_000)])
            assert await store.load([never]) == {}
            assert await store.write([writing(prediction(never, 4), 3)]) == [Conflict(0)]
            await eventually(lambda: gone(once, again), within=30)
            assert await store.write([writing(prediction(again, 2), 1)]) == [Conflict(0)]
            standing = creation(again)
            assert await store.write([standing]) == [None]
            assert await store.sweep(SYSTEM_CLOCK.ms() + 700_000, 10) == 1
            assert await gone(swept)
            assert (await store.load([again]))[again].encoded == standing.encoded
        await asyncio.to_thread(worker.kill)
        assert len(worker.objects("single")) == 4
        assert [tables for tables in worker.objects("single") if tables] == [
            {"records", "positions"}
        ]
        await asyncio.to_thread(worker.start)
        async with opened(worker.url) as store:
            assert set(await store.load([once, again, swept, never])) == {again}
            assert await store.write([creation(once)]) == [None]
            assert set(await store.load([once])) == {once}
    finally:
        worker.close()


async def test_spaces(place: str) -> None:
    """Two spaces under one Worker know nothing of each other."""
    async with opened(place) as store, opened(place + "-2") as other:
        one = fresh()
        assert await store.write([creation(one)]) == [None]
        assert await other.get(one) is None
        assert (await other.list(Query())).items == []
        assert await other.write([writing(prediction(one, 7), 0)]) == [None]
        assert (await store.load([one]))[one].version == 1


async def test_wrong_token(place: str) -> None:
    """A wrong or missing token stops the start with a line that names the setting, and shows nothing of the token."""
    with pytest.raises(StoreMisconfigured, match="TIDINGS_WORKER_TOKEN") as caught:
        await open_store(f"durable-objects+{place}", worker_token="not-the-secret")
    assert "not-the-secret" not in str(caught.value)
    with pytest.raises(StoreMisconfigured, match="TIDINGS_WORKER_TOKEN"):
        await open_store(f"durable-objects+{place}")
    async with aiohttp.ClientSession() as http:
        for method, path in (
            ("GET", "health"),
            ("POST", "batch"),
            ("GET", "predictions/p"),
            ("PUT", "kv/bulk"),
        ):
            async with http.request(
                method, f"{place}/v1/{path}", data=b"x" * 10_000_000 if method != "GET" else None
            ) as answer:
                assert answer.status == 401


async def test_no_token_deployed() -> None:
    """A Worker that was deployed without a token serves nobody, and says how to give it one."""
    workerd.needed()
    worker = Workerd(token=None)
    try:
        worker.start()
        with pytest.raises(StoreMisconfigured, match="wrangler secret put TIDINGS_TOKEN"):
            await open_store(f"durable-objects+{worker.url}", worker_token=TOKEN)
    finally:
        worker.close()


async def test_other_layout(own_worker: Workerd) -> None:
    """A Worker deployed anew with another number of shards refuses to look where the records are not."""
    async with opened(own_worker.url) as store:
        await store.write([creation(fresh())])
        own_worker.shards = 16
        await asyncio.to_thread(own_worker.restart)
        with pytest.raises(StoreMisconfigured, match="set LAYOUT and SHARDS back"):
            await store.write([creation(fresh())])
        with pytest.raises(StoreMisconfigured, match="SHARDS"):
            async with opened(own_worker.url):
                pass


async def test_other_format(own_worker: Workerd) -> None:
    """Objects that a newer Worker has written are left alone by an older one, which names both formats."""
    own_worker.edits = [("layout.js", 'FORMAT = "1"', 'FORMAT = "2"')]
    await asyncio.to_thread(own_worker.restart)
    async with opened(own_worker.url) as store:
        await store.write([creation("p1")])
    own_worker.edits = []
    await asyncio.to_thread(own_worker.restart)
    with pytest.raises(
        StoreMisconfigured, match="have format 2, this Worker reads 1: deploy the version"
    ):
        async with opened(own_worker.url):
            pass


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"service": "tidings", "protocol": 2, "max_operations": 1, "layout": "x", "shards": 1},
            "newer program",
        ),
        (
            {"service": "tidings", "protocol": 0, "max_operations": 1, "layout": "x", "shards": 1},
            "wrangler deploy",
        ),
        ({"hello": "world"}, "no Worker of Tidings"),
        (404, "no Worker of Tidings"),
    ],
)
async def test_foreign_worker(answer: object, words: str) -> None:
    """A Worker of another version, or something else altogether, is told at the start by one line with the remedy."""

    async def health(request: web.Request) -> web.Response:
        return web.Response(status=answer) if isinstance(answer, int) else web.json_response(answer)

    application = web.Application()
    application.router.add_get("/v1/health", health)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        with pytest.raises(StoreMisconfigured, match=words):
            await open_store(f"durable-objects+http://127.0.0.1:{port}", worker_token="t")
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("durable-objects://", "host"),
        ("durable-objects://user:secret@host", "host"),
        ("durable-objects://host?x=secret", "location and jurisdiction after its .*, not 'x'"),
    ],
)
async def test_bad_urls(url: str, said: str) -> None:
    """A URL without a host, or with more than host, space and place, is refused without being repeated."""
    with pytest.raises(StoreMisconfigured, match=said) as caught:
        await open_store(url, worker_token="t")
    assert "secret" not in str(caught.value)


async def test_nobody_there() -> None:
    """Where nobody listens the start says so within seconds, as something that a retry may mend."""
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await open_store(f"durable-objects+http://127.0.0.1:{free_port()}", worker_token="t")


async def test_by_hand(place: str) -> None:
    """One prediction by plain HTTP.

    Conditional writes with its version as the ETag, and deletion by a tombstone.
    """
    one = fresh("p/ü?#")
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {TOKEN}"}) as http,
        opened(place) as store,
    ):
        url = URL(f"{place}/v1/predictions/{quote(one, safe='')}", encoded=True)
        first, second = (
            encode(prediction(one, owner="o")),
            encode(prediction(one, 2, Status.PROCESSING)),
        )
        async with http.put(url, data=first) as answer:
            assert answer.status == 428
        async with http.put(url, data=first, headers={"if-none-match": "*"}) as answer:
            assert (answer.status, await answer.json()) == (200, {"version": 1})
        async with http.put(url, data=first, headers={"if-none-match": "*"}) as answer:
            assert answer.status == 412
            assert await answer.json() == {"version": 1, "current": first.decode()}
        async with http.put(url, data=second, headers={"if-match": '"1"'}) as answer:
            assert answer.status == 200
        async with http.get(url) as answer:
            assert (answer.headers["etag"], await answer.read()) == ('"2"', second)
        assert (await store.load([one]))[one].encoded == second
        async with http.delete(url, headers={"if-match": '"1"'}) as answer:
            assert answer.status == 412
        async with http.delete(url) as answer:
            assert (answer.status, await answer.json()) == (200, {"version": 3})
        async with http.get(url) as answer:
            assert answer.status == 404
        assert (await store.load([one]))[one].standing().version == 3


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"ops": 1}',
        '{"ops": [1]}',
        '{"ops": [{"id": ""}]}',
        json.dumps({"ops": [{"id": "a", "if_version": 0, "version": -1, "doc": "{}"}]}),
        json.dumps({"ops": [{"id": "a", "if_version": "0", "version": "1", "doc": {}}]}),
        json.dumps(
            {"ops": [{"id": "a", "if_version": "0", "version": "1", "doc": "{}", "status": "odd"}]}
        ),
        json.dumps({"ops": [{"id": "a", "if_version": "0", "version": "1", "doc": "{}"}] * 2}),
    ],
)
async def test_bad_batches(place: str, body: str) -> None:
    """A batch that is not one is answered 400 with a reason, and writes nothing."""
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {TOKEN}"}) as http:
        async with http.post(f"{place}/v1/batch", data=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]
        async with http.get(f"{place}/v1/predictions/a") as answer:
            assert answer.status == 404
