"""The main job with Cloudflare KV as its store: a projection, whose truth is the changes topic."""

import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import msgspec
import pytest

from tests.chaos.crashes.test_crashes import (
    KEY,
    REPORTS,
    Load,
    check_complete,
    loaded_gateway,
    mortal,
)
from tests.support import webhooks, workerd
from tests.support.cloudflare_emulator import ACCOUNT, TOKEN, CloudflareEmulator
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import get, reaches, signed, watching
from tests.support.workerd import Workerd
from tidings.storage.cloudflare.kv_codec import PREDICTION


class Edge:
    """What a reader at the edge sees of a test's own namespace, and the settings of a service that fills it."""

    def __init__(
        self,
        emulator: CloudflareEmulator,
        name: str,
        settings: dict[str, str],
        other: Path | None = None,
    ) -> None:
        self.emulator = emulator
        self.settings = settings
        self._namespace = emulator.namespace(name)
        self._other = other

    def version(self, prediction_id: str) -> int:
        """The version that KV shows, or the other arm where there is one; never both. 0: nothing."""
        shown, row = self._shown(prediction_id), self._row(prediction_id)
        assert not (shown and row), f"{prediction_id} stands in both arms"
        return shown or row

    def _row(self, prediction_id: str) -> int:
        if self._other is None or not self._other.exists():
            return 0
        with closing(sqlite3.connect(self._other, timeout=10)) as store:
            sought = "SELECT version FROM predictions WHERE id = ?"
            return int((store.execute(sought, (prediction_id,)).fetchone() or (0,))[0])

    def _shown(self, prediction_id: str) -> int:
        for key, history in list(self._namespace._keys.items()):
            if (
                key.endswith(PREDICTION + prediction_id)
                and (value := history[-1].value) is not None
            ):
                return int(msgspec.json.decode(value)["version"])
        return 0

    @property
    def asked(self) -> int:
        """Reads that KV was asked for."""
        return sum(route.endswith(("/bulk/get", "/keys")) for route in self.emulator.requests)


@pytest.fixture
def emulator() -> Iterator[CloudflareEmulator]:
    """A Cloudflare of the test's own, with its real limit of a write a second for each key."""
    emulator = CloudflareEmulator(limit=1_000_000)
    emulator.start()
    yield emulator
    emulator.close()


@pytest.fixture(params=["rest", "worker", pytest.param("arm", marks=pytest.mark.long)])
def edge(
    request: pytest.FixtureRequest, emulator: CloudflareEmulator, tmp_path: Path
) -> Iterator[Edge]:
    """KV by its REST API, by the Worker, and as one arm of a split beside SQLite."""
    if request.param != "worker":
        url = f"cloudflare-kv://{ACCOUNT}/predictions"
        settings = {"TIDINGS_CLOUDFLARE_TOKEN": TOKEN, "TIDINGS_CLOUDFLARE_URL": emulator.url}
        if request.param == "arm":
            settings["TIDINGS_STORE_SPLIT"] = f"{url}=50"
            yield Edge(emulator, "predictions", settings, tmp_path / "data" / "store.db")
        else:
            settings["TIDINGS_STORE"] = url
            yield Edge(emulator, "predictions", settings)
        return
    workerd.needed()
    worker = Workerd(shards=1, kv_port=emulator.binding_port)
    worker.start()
    settings = {
        "TIDINGS_STORE": f"cloudflare-kv+worker+{worker.url}",
        "TIDINGS_WORKER_TOKEN": workerd.TOKEN,
    }
    yield Edge(emulator, "bound", settings)
    worker.close()


@asynccontextmanager
async def processor(folder: Path, settings: dict[str, str]) -> AsyncIterator[TidingsProcess]:
    """A processor in a process of its own."""
    async with serving(
        folder, {**settings, **KEY}, arguments=("serve", "--role", "processor")
    ) as running:
        yield running


async def check_shown(edge: Edge, load: Load) -> None:
    """KV shows the newest version of every finished prediction."""
    await eventually(lambda: all(edge.version(one) == REPORTS for one in load.finished), 60)


async def test_killed_at_each_step_of_the_commit(
    tmp_path: Path, settings: dict[str, str], edge: Edge
) -> None:
    """SIGKILL as each numbered step ends: afterwards everything is there exactly once, at the edge too."""
    settings = {**settings, **edge.settings}
    async with loaded_gateway(tmp_path, settings) as (gateway, load, watcher):
        for step in range(1, 7):
            doomed = mortal(tmp_path, settings, step, count=1 + 2 * (step % 2))
            await doomed.launch()
            assert await doomed.ended(60) == -signal.SIGKILL, doomed.output
        async with processor(tmp_path, settings):
            await eventually(lambda: len(load.finished) > 4, 30)
            await check_complete(gateway, load, watcher)
            await check_shown(edge, load)


@pytest.mark.kafka
async def test_a_frozen_owner_thaws_after_the_takeover(
    tmp_path: Path, settings: dict[str, str], edge: Edge, log_settings: dict[str, str]
) -> None:
    """A processor stands still, another takes its partitions over, it goes on: no record goes back, KV ends up newest."""
    if not log_settings:
        pytest.skip("two processors share a log only where that is Kafka")
    settings = {**settings, **edge.settings}
    async with (
        loaded_gateway(tmp_path, settings) as (gateway, load, watcher),
        processor(tmp_path, settings) as first,
    ):
        await eventually(lambda: len(load.finished) > 4, 60)
        first.signal(signal.SIGSTOP)
        async with processor(tmp_path, settings):
            finished = len(load.finished)
            seen = len(watcher.messages)
            await eventually(
                lambda: len(load.finished) > finished + 4 and len(watcher.messages) > seen + 20, 60
            )
            first.signal(signal.SIGCONT)
            seen = len(watcher.messages)
            await eventually(lambda: len(watcher.messages) > seen + 20, 60)
            await check_complete(gateway, load, watcher)
            await check_shown(edge, load)


async def test_a_gateway_reads_nothing_from_kv(
    tmp_path: Path, settings: dict[str, str], edge: Edge
) -> None:
    """It knows every record when it is ready, whatever KV shows: the past, unknown ids and lists cost KV no request."""
    settings = {**settings, **edge.settings}
    async with serving(tmp_path, settings) as service, aiohttp.ClientSession() as session:
        for n in range(30):
            body = webhooks.report(f"early-{n}")
            headers = signed(body)
            async with session.post(
                f"{service.url}/api/webhooks/replicate", data=body, headers=headers
            ) as answer:
                assert answer.status == 200
        for n in range(30):
            await reaches(session, service.url, f"early-{n}", "succeeded")
        async with session.delete(f"{service.url}/api/predictions/early-0") as answer:
            assert answer.status == 204
    edge.emulator.staleness = 3600  # KV shows what was an hour ago: nothing
    async with serving(tmp_path, settings) as service, aiohttp.ClientSession() as session:
        before = edge.asked
        for n in range(1, 30):
            record = await get(session, service.url, f"early-{n}")
            assert record is not None
            assert record["status"] == "succeeded"
        for name in ("early-0", "nobody"):
            assert await get(session, service.url, name) is None
        async with session.get(f"{service.url}/api/predictions?limit=100") as answer:
            assert len((await answer.json())["data"]) == 29
        async with watching(
            service.ws_url, predictions=[f"early-{n}" for n in range(30)]
        ) as watcher:
            kinds = [message["type"] for message in watcher.messages]
            assert kinds.count("snapshot") == 29
        # A late report is judged by what the processor restored, and by nothing else.
        body = webhooks.report("early-1", status="processing", output=None, metrics={})
        async with session.post(
            f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
        ) as answer:
            assert answer.status == 200
        body = webhooks.report("marker")
        async with session.post(
            f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
        ) as answer:
            assert answer.status == 200
        await reaches(session, service.url, "marker", "succeeded")
        record = await get(session, service.url, "early-1")
        assert record is not None
        assert record["status"] == "succeeded"
        assert edge.asked == before, str(edge.emulator.requests)


async def test_kv_away_for_a_while_stops_nothing(
    tmp_path: Path, settings: dict[str, str], edge: Edge
) -> None:
    """While KV answers with errors everything goes on, and afterwards it is brought up to date."""
    settings = {**settings, **edge.settings}
    async with (
        loaded_gateway(tmp_path, settings) as (gateway, load, watcher),
        processor(tmp_path, settings),
    ):
        await eventually(lambda: len(load.finished) > 2, 30)
        edge.emulator.fail = 5
        finished = len(load.finished)
        await eventually(lambda: len(load.finished) > finished + 4, 30)
        await check_complete(gateway, load, watcher)
        await check_shown(edge, load)
