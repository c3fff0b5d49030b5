"""The page for who ports from the original design: each row of its tables is tried."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import tidings
from tests.support import cloudflare_emulator, workerd
from tests.support.root import ROOT
from tests.support.storage.samples import creation, fresh
from tests.support.webhooks import reaches
from tidings.config.loader import load_settings
from tidings.config.settings import Settings
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.cloudflare.kv_codec import PREDICTION
from tidings.storage.factory import open_store
from tidings.storage.legacy_environment import selected_url
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import encode
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.instrumented import ObservedStore
from tidings.storage.wrappers.split import SplitStore
from tidings.streams.log.protocol import EVENTS, NewRecord
from tidings.streams.rules.decision import Applied
from tidings.streams.rules.event import Archive, Event, EventType
from tidings.streams.rules.transitions import decide
from tidings.streams.submission.submitter import PREFIX

PAGE = ROOT / "docs" / "howto" / "porting.md"
CHECKS: dict[str, Callable[["Row"], Awaitable[None]]] = {}


class Row:
    """A row under test.

    Args:
        ours: Its second cell.
        folder: An empty one.
    """

    def __init__(self, ours: str, folder: Path) -> None:
        self.ours = ours
        self.folder = folder
        self.manager = tidings.PredictionStatusManager(MemoryStore())

    def says(self, *words: str) -> None:
        """The cell names these."""
        for word in words:
            assert word in self.ours, self.ours

    async def called(self, **names: Any) -> Any:
        """What the cell's first call gives, on the manager, with `...` filled in."""
        match = re.search(r"`(\w+\(.*?\))`", self.ours)
        assert match is not None, self.ours
        code = match[1]
        for name, value in names.items():
            code = code.replace(f"{name}=...", f"{name}={value!r}")
        known = {"id": "p1", "store": MemoryStore(), **names}
        target = tidings if code.split("(")[0] in dir(tidings) else self.manager
        found = eval(f"target.{code}", {"target": target, **known})
        return await found if isinstance(found, Awaitable) else found


def rows() -> list[tuple[str, str]]:
    """First and second cell of every row of every table."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line[:1] == "|"
    ]
    return [
        (one[0].strip(), one[1].strip()) for one in cells if one[0] not in ("original", "---|---")
    ]


def row(original: str) -> Callable[[Callable[[Row], Awaitable[None]]], None]:
    """What tries the row of this first cell."""

    def keep(check: Callable[[Row], Awaitable[None]]) -> None:
        CHECKS[original] = check

    return keep


def test_each_row_is_tried() -> None:
    """No row is without its check, and no check without its row."""
    named = [original for original, _ in rows()]
    assert len(named) == len(set(named))
    assert set(named) == CHECKS.keys()


@pytest.mark.parametrize(("original", "ours"), rows())
async def test_row(
    original: str, ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands beside the original's name, option or answer is so."""
    monkeypatch.chdir(tmp_path)
    await CHECKS[original](Row(ours, tmp_path))


# ---- calls ----


@row("`createStorageProvider(env)`")
async def _(row: Row) -> None:
    store = await row.called()
    assert isinstance(store, CachedStore)
    await store.close()


@row("`new PredictionStatusManager(storage)`")
async def _(row: Row) -> None:
    assert isinstance(await row.called(), tidings.PredictionStatusManager)


@row("`initialize(id, { payload, prompt, model, estimatedTime })`")
async def _(row: Row) -> None:
    record = await row.called(
        payload={"seed": 7}, prompt="a kite", model="acme/draw", estimated_time=4000
    )
    assert (record.status, record.prompt, record.estimated_time) == ("starting", "a kite", 4000)
    assert record.value("payload") == {"seed": 7}


@row("`get(id)`")
async def _(row: Row) -> None:
    assert await row.called() is None
    await row.manager.initialize("p1")
    assert (await row.called()).prediction_id == "p1"


@row("`update(id, { status, ...fields })`")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    record = await row.called(status="processing", fields={"progress": 0.5})
    assert (record.status, record.progress) == ("processing", 0.5)


@row("`markAsProcessing(id)`")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    assert (await row.called()).status == "processing"


@row("`markAsSucceeded(id, imageUrl, imagePath, generationTime)`")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    record = await row.called(
        image_url="https://e.com/k.png", image_path="k.png", generation_time=3
    )
    assert record.status == "succeeded"
    assert (record.image_url, record.image_path, record.generation_time) == (
        "https://e.com/k.png",
        "k.png",
        3,
    )
    row.says("`output=...`")
    await row.manager.initialize("p2")
    assert (await row.manager.mark_as_succeeded("p2", output=[1])).value("output") == [1]


@row("`markAsFailed(id, error)`")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    record = await row.called(error="no")
    assert (record.status, record.error) == ("failed", "no")


@row("`markAsCanceled(id)`")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    assert (await row.called()).status == "canceled"


@row("`delete(id)`")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    await row.called()
    assert await row.manager.get("p1") is None


@row("polling `GET /api/predictions/{id}`")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    states = await row.called()
    assert (await anext(states)).status == "starting"
    await row.manager.mark_as_failed("p1", "no")
    assert [one.status async for one in states] == ["failed"]
    script = (ROOT / "gateway" / "static" / "tidings.js").read_text(encoding="utf-8")
    row.says("`watch(id, show)`")
    assert "watch(" in script


# ---- answers ----


@row("`{ success: true, data }`")
async def _(row: Row) -> None:
    answer = await row.called(call=row.manager.initialize("p1"))
    assert answer["success"] is True
    assert answer["data"]["predictionId"] == "p1"


@row("`{ success: false, errorCode, message }`")
async def _(row: Row) -> None:
    async def broken() -> None:
        raise tidings.StoreUnavailable("away")

    one = row.manager
    await one.initialize("p1")
    await one.mark_as_failed("p1", "no")
    calls = {
        "NOT_FOUND": one.delete("p2"),
        "ALREADY_EXISTS": one.initialize("p1"),
        "INVALID_TRANSITION": one.mark_as_processing("p1"),
        "STORAGE_ERROR": broken(),
        "INVALID": one.initialize("no id"),
    }
    row.says(*calls)
    for code, call in calls.items():
        answer = await row.called(call=call)
        assert answer.keys() == {"success", "errorCode", "message"}
        assert (answer["success"], answer["errorCode"]) == (False, code)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A service with one prediction, and a session to ask it."""
    settings = Settings(
        port=0,
        log=f"sqlite:///{folder}/log.db",
        store=f"sqlite:///{folder}/store.db",
        assets=f"file://{folder}/assets",
    )
    async with tidings.service(settings) as running, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{running.port}"
        await running.resources.log.append(EVENTS, [NewRecord(b"p1", b'{"status":"processing"}')])
        await reaches(session, url, "p1", "processing")
        yield session, f"{url}/api/predictions"


@row('`200 { "success": true, "data": {...} }`')
async def _(row: Row) -> None:
    async with serving(row.folder) as (session, url), session.get(f"{url}/p1") as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body.keys() == {"success", "data"}
    assert (body["success"], body["data"]["status"]) == (True, "processing")


@row('`404 { "error": "Prediction not found" }`')
async def _(row: Row) -> None:
    async with serving(row.folder) as (session, url), session.get(f"{url}/p2") as answer:
        assert answer.status == 404
        assert answer.content_type == "application/problem+json"
        body = msgspec.json.decode(await answer.read())
    assert body["error"] == "Prediction not found"
    assert body["success"] is False
    assert body["errorCode"]
    row.says("`success` false", "`errorCode`")


@row("`409 Invalid transition from X to Y`")
async def _(row: Row) -> None:
    async with serving(row.folder) as (session, url):
        async with session.patch(f"{url}/p1", json={"status": "failed", "error": "no"}) as answer:
            assert answer.status == 200
        async with session.patch(f"{url}/p1", json={"status": "processing"}) as answer:
            assert answer.status == 409
            body = msgspec.json.decode(await answer.read())
    assert body["error"] == "Invalid transition from failed to processing"


@row("`starting`, `processing`, `succeeded`, `failed`, `canceled`")
async def _(row: Row) -> None:
    after = {
        "starting": {"processing", "failed", "canceled"},
        "processing": {"succeeded", "failed", "canceled"},
        "succeeded": set(),
        "failed": set(),
        "canceled": set(),
    }
    assert set(after) == {str(one) for one in tidings.Status}
    ways = {"starting": (), "processing": ("processing",)}
    for status, allowed in after.items():
        for wanted in after.keys() - {status}:
            one = tidings.PredictionStatusManager(MemoryStore(), strict=True)
            await one.initialize("p1")
            for step in ways.get(status, ("processing", status)):
                await one.update("p1", step)
            if wanted in allowed:
                assert (await one.update("p1", wanted)).status == wanted
            else:
                with pytest.raises(tidings.InvalidTransition):
                    await one.update("p1", wanted)


@row("a step that leaves one out is an error")
async def _(row: Row) -> None:
    await row.manager.initialize("p1")
    record = await row.manager.mark_as_succeeded("p1")
    assert [step.to for step in record.transitions] == ["starting", "processing", "succeeded"]
    row.says("`strict=True`", "`TIDINGS_STRICT=1`")
    strict = tidings.PredictionStatusManager(MemoryStore(), strict=True)
    await strict.initialize("p1")
    with pytest.raises(tidings.InvalidTransition):
        await strict.mark_as_succeeded("p1")
    assert load_settings(environ={"TIDINGS_STRICT": "1"}).strict


@row("`AI service submission failed: ...`")
async def _(row: Row) -> None:
    assert PREFIX == "AI service submission failed: "


@row("`Processing failed: ...`")
async def _(row: Row) -> None:
    row.says("`TIDINGS_ARCHIVE=before`")
    assert load_settings(environ={"TIDINGS_ARCHIVE": "before"}).archive == "before"
    before = tidings.PredictionStatusManager(MemoryStore())
    await before.initialize("p1")
    now = SYSTEM_CLOCK.ms()
    done = Event(
        prediction_id="p1",
        at=now,
        recorded_at=now,
        status=tidings.Status.SUCCEEDED,
        output=msgspec.Raw(b'"https://e.com/k.png"'),
        archive=Archive.BEFORE,
    )
    record = await before.report(done)
    assert record is not None
    assert (record.status, record.pending) == ("processing", "succeeded")
    lost = Event(
        prediction_id="p1", at=now, recorded_at=now, type=EventType.ARCHIVE, assets_error="404"
    )
    decision = decide(record, lost, None)
    assert isinstance(decision, Applied)
    assert getattr(decision.record, "error", None) == "Processing failed: 404"


# ---- the environment ----

AT = {"TIDINGS_CLOUDFLARE_ACCOUNT": "a", "TIDINGS_CLOUDFLARE_NAMESPACE": "n"}
WORKER = {"TIDINGS_WORKER_URL": "https://w.example"}
KV, DO = "cloudflare-kv://a/n", "durable-objects://w.example"


def chosen(**names: str) -> str:
    """The store that these choose, for the library and for the settings alike."""
    environ = {**names, **AT, **WORKER, "TIDINGS_CLOUDFLARE_TOKEN": "t"}
    store = load_settings(environ=environ).store
    assert selected_url(environ) in (store, None)
    return store


@row("`PREDICTION_STORAGE_PROVIDER=kv`")
async def _(row: Row) -> None:
    assert chosen(PREDICTION_STORAGE_PROVIDER="kv", REQUIRE_STRONG_CONSISTENCY="true") == KV


@row("`PREDICTION_STORAGE_PROVIDER=do`")
async def _(row: Row) -> None:
    assert chosen(PREDICTION_STORAGE_PROVIDER="do", TIDINGS_ENV="development") == DO


@row("an environment called `development`")
async def _(row: Row) -> None:
    row.says("`TIDINGS_ENV=development`")
    assert chosen(TIDINGS_ENV="development", REQUIRE_STRONG_CONSISTENCY="true") == KV


@row("`REQUIRE_STRONG_CONSISTENCY=true`")
async def _(row: Row) -> None:
    assert chosen(REQUIRE_STRONG_CONSISTENCY="true", OPTIMIZE_FOR_THROUGHPUT="true") == DO


@row("`OPTIMIZE_FOR_THROUGHPUT=true`")
async def _(row: Row) -> None:
    assert chosen(OPTIMIZE_FOR_THROUGHPUT="true") == KV


@row("none of them: KV")
async def _(row: Row) -> None:
    assert chosen() == "sqlite:///data/store.db"


@row("bindings of the Worker")
async def _(row: Row) -> None:
    row.says(*AT, *WORKER, "TIDINGS_CLOUDFLARE_TOKEN", "TIDINGS_WORKER_TOKEN")
    kv = {"PREDICTION_STORAGE_PROVIDER": "kv"}
    assert selected_url({**kv, **AT}) == KV
    assert selected_url({**kv, **WORKER}) == "cloudflare-kv+worker://w.example"


# ---- stores ----


@row("KV's key `prediction:{id}`")
async def _(row: Row) -> None:
    emulator, name = cloudflare_emulator.shared(), fresh("keys")
    space = emulator.namespace(name)
    store = await open_store(
        f"cloudflare-kv://{cloudflare_emulator.ACCOUNT}/{name}",
        token=cloudflare_emulator.TOKEN,
        base_url=emulator.url,
    )
    manager = tidings.PredictionStatusManager(store)
    await manager.initialize("p1", prompt="a kite")
    value = space._keys["prediction:p1"][-1].value
    await store.close()
    assert msgspec.json.decode(value or "")["prompt"] == "a kite"


@row("KV lets go of a key at its time to live")
async def _(row: Row) -> None:
    emulator, name = cloudflare_emulator.shared(), fresh("lives")
    space = emulator.namespace(name)
    store = await open_store(
        f"cloudflare-kv://{cloudflare_emulator.ACCOUNT}/{name}",
        token=cloudflare_emulator.TOKEN,
        base_url=emulator.url,
        write_interval=0.01,
    )
    manager = tidings.PredictionStatusManager(store)
    await manager.initialize("p1")
    done = await manager.mark_as_failed("p1", "no")
    entry = space._keys[PREDICTION + "p1"][-1]
    await store.close()
    row.says("`TIDINGS_TTL`", "an hour")
    assert abs((entry.expiration or 0) - (done.updated_at / 1000 + 3600)) < 5
    assert load_settings(environ={}).ttl == 3600


class Ticking:
    """A clock that is moved by hand."""

    now = 1_764_000_000_000

    def ms(self) -> int:
        """Milliseconds."""
        return self.now

    def monotonic(self) -> float:
        """Seconds."""
        return self.now / 1000


@row("an expired id is free again")
async def _(row: Row) -> None:
    clock = Ticking()
    manager = tidings.PredictionStatusManager(MemoryStore(clock=clock), clock=clock)
    await manager.initialize("p1", prompt="first")
    await manager.mark_as_failed("p1", "no")
    with pytest.raises(tidings.AlreadyExists):
        await manager.initialize("p1")
    clock.now += 3_600_001
    assert (await manager.initialize("p1", prompt="second")).prompt == "second"


@row("a Durable Object for each prediction")
async def _(row: Row) -> None:
    row.says("`LAYOUT=one-per-prediction`", "64")
    for layout, shown in (("one-per-prediction", "one-per-prediction"), ("sharded", "shards")):
        url, token = workerd.shared(layout)
        store = await open_store(f"durable-objects+{url}/{fresh('rows')}", worker_token=token)
        assert await store.write([creation("p1")]) == [None]
        assert shown in (await store.facts())["layout"]
        await store.close()
    wrangler = (ROOT / "storage/cloudflare/worker/wrangler.jsonc").read_text(encoding="utf-8")
    assert re.search(r'"SHARDS": "?64', wrangler)


@row("`locationHint`")
async def _(row: Row) -> None:
    row.says("`durable-objects://host?location=weur`")
    url, token = workerd.shared()
    store = await open_store(f"durable-objects+{url}?location=weur", worker_token=token)
    assert (await store.facts())["location"] == "weur"
    await store.close()


@row("`jurisdiction`")
async def _(row: Row) -> None:
    row.says("`durable-objects://host?jurisdiction=eu`")
    url, token = workerd.shared()
    with pytest.raises(tidings.StoreUnavailable, match="Jurisdiction restrictions"):
        await open_store(f"durable-objects+{url}?jurisdiction=eu", worker_token=token)


@asynccontextmanager
async def stored(**names: str) -> AsyncIterator[Any]:
    """What `create_storage` opens with these in the environment."""
    settings = load_settings(environ={"TIDINGS_STORE": "memory://", **names})
    store = await tidings.create_storage(settings, registry=CollectorRegistry())
    yield store
    await store.close()


@row("an A/B split of two providers")
async def _(row: Row) -> None:
    row.says("`TIDINGS_STORE_SPLIT=URL=10`")
    async with stored(TIDINGS_STORE_SPLIT="memory://=10") as store:
        split = store.store
        assert isinstance(split, SplitStore)
        arms = [split.arm(fresh()) for _ in range(2000)]
        assert 120 < sum(arms) < 280


@row("a second provider where the first fails")
async def _(row: Row) -> None:
    row.says("`TIDINGS_STORE_FALLBACK=URL`")
    async with stored(TIDINGS_STORE_FALLBACK=f"sqlite:///{row.folder}/copy.db") as store:
        assert isinstance(store.store, FallbackStore)


class Away(MemoryStore):
    """A store that does not answer."""

    async def get(self, prediction_id: str) -> None:
        """No answer."""
        raise tidings.StoreUnavailable("away")


@row("an error line for each operation that fails")
async def _(row: Row) -> None:
    store = ObservedStore(Away(), registry=CollectorRegistry())
    with capture_logs() as logs, pytest.raises(tidings.StoreUnavailable):
        await store.get("p1")
    event = row.ours.strip("`").format(store="memory", operation="get")
    assert [log["event"] for log in logs] == [event]


@row("a success line for each operation")
async def _(row: Row) -> None:
    row.says("TIDINGS_LOG_OPERATIONS=1", "`storage.{store}.{operation}.success`")
    with capture_logs() as logs:
        async with stored(TIDINGS_LOG_OPERATIONS="1", TIDINGS_CACHE_TTL="0") as store:
            await store.get("p1")
    assert "storage.memory.get.success" in [log["event"] for log in logs]
    with capture_logs() as logs:
        async with stored(TIDINGS_CACHE_TTL="0") as store:
            await store.get("p1")
    assert logs == []


@row("duration, success and error of each operation and arm")
async def _(row: Row) -> None:
    registry = CollectorRegistry()
    store = ObservedStore(Away(), registry=registry, arm="b")
    await store.load(["p1"])
    with pytest.raises(tidings.StoreUnavailable):
        await store.get("p1")
    duration, success, error = re.findall(r"`(tidings_\w+)`", row.ours)

    def figure(name: str, operation: str) -> float:
        labels = {"store": "memory", "operation": operation, "arm": "b"}
        return registry.get_sample_value(name, labels) or 0

    assert figure(f"{duration}_count", "get") == figure(f"{duration}_count", "load") == 1
    assert (figure(success, "load"), figure(success, "get")) == (1, 0)
    assert (figure(error, "load"), figure(error, "get")) == (0, 1)


@row("a cache before the store")
async def _(row: Row) -> None:
    row.says("`TIDINGS_CACHE_TTL`", "30 seconds")
    assert load_settings(environ={}).cache_ttl == 30
    async with stored() as store:
        assert isinstance(store, CachedStore)
    async with stored(TIDINGS_CACHE_TTL="0") as store:
        assert not isinstance(store, CachedStore)


@row("JSON by `orjson`")
async def _(row: Row) -> None:
    record = await row.manager.initialize("p1", payload={"seed": 2**70})
    assert record.value("payload") == {"seed": 2**70}
    assert msgspec.json.decode(encode(record))["payload"]["seed"] == 2**70
