"""The service on composed stores: a fallback while the store is away, an A/B split, and each counted by itself."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.servers import Valkey
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import get, reaches, signed, watching

DEGRADED = "tidings-degraded"
CACHE_NOTHING = {"TIDINGS_CACHE_RECORDS": "1"}
"""So that reads go to the store."""


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A server of the test's own."""
    server = Valkey()
    server.start()
    yield server
    server.close()


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    async with session.post(
        f"{url}/api/webhooks/replicate", data=body, headers=signed(body)
    ) as answer:
        assert answer.status == 200


@asynccontextmanager
async def filled(
    folder: Path, settings: dict[str, str]
) -> AsyncIterator[tuple[TidingsProcess, aiohttp.ClientSession]]:
    """A service with finished predictions `p0` to `p19`."""
    async with serving(folder, settings) as service, aiohttp.ClientSession() as session:
        for n in range(20):
            await post(session, service.url, webhooks.report(f"p{n}"))
        for n in range(20):
            await reaches(session, service.url, f"p{n}", "succeeded")
        yield service, session


async def metric(session: aiohttp.ClientSession, url: str, start: str) -> float:
    """The sum of the samples that begin like this."""
    async with session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


@pytest.mark.parametrize("copy", ["sqlite:///data/copy.db", "memory://"])
async def test_reads_go_on_from_the_fallback(
    tmp_path: Path, settings: dict[str, str], valkey: Valkey, copy: str
) -> None:
    """The store is killed: reads are answered and marked, webhooks are taken; it comes back: all is applied, unmarked."""
    composed = {"TIDINGS_STORE": valkey.url, "TIDINGS_STORE_FALLBACK": copy, **CACHE_NOTHING}
    async with filled(tmp_path, {**settings, **composed}) as (service, session):

        async def mirrored() -> bool:
            return (
                await metric(
                    session,
                    service.url,
                    'tidings_storage_success_total{arm="fallback",operation="write"',
                )
                > 0
            )

        await eventually(mirrored)
        await asyncio.to_thread(valkey.kill)
        for n in range(20):
            async with session.get(f"{service.url}/api/predictions/p{n}") as answer:
                assert answer.status == 200
                assert (await answer.json())["data"]["status"] == "succeeded"
                if n < 10:  # the newest may be in memory still
                    assert answer.headers[DEGRADED] == "1"
        async with session.get(f"{service.url}/api/predictions") as answer:
            assert answer.headers[DEGRADED] == "1"
            assert len((await answer.json())["data"]) == 20
        async with session.get(f"{service.url}/api/predictions/nobody") as answer:
            assert (answer.status, answer.headers[DEGRADED]) == (404, "1")
        await post(session, service.url, webhooks.report("meanwhile"))
        assert await get(session, service.url, "meanwhile") is None
        await asyncio.to_thread(valkey.start)
        await reaches(session, service.url, "meanwhile", "succeeded")

        async def unmarked() -> bool:
            async with session.get(f"{service.url}/api/predictions/p3") as answer:
                return answer.status == 200 and DEGRADED not in answer.headers

        await eventually(unmarked, 20)
        assert (
            await metric(
                session,
                service.url,
                'tidings_storage_error_total{arm="",operation="get",store="redis"',
            )
            > 0
        )


async def test_a_subscription_while_the_store_is_away(
    tmp_path: Path, settings: dict[str, str], valkey: Valkey
) -> None:
    """A snapshot of one prediction comes from the fallback too."""
    composed = {
        "TIDINGS_STORE": valkey.url,
        "TIDINGS_STORE_FALLBACK": "sqlite:///data/copy.db",
        **CACHE_NOTHING,
    }
    async with filled(tmp_path, {**settings, **composed}) as (service, session):

        async def mirrored() -> bool:
            await asyncio.to_thread(valkey.kill)
            try:
                return await get(session, service.url, "p0") is not None
            finally:
                await asyncio.to_thread(valkey.start)

        await eventually(mirrored, 20)
        await asyncio.to_thread(valkey.kill)
        async with watching(service.ws_url, predictions=["p0"]) as watcher:
            assert any(message["type"] == "snapshot" for message in watcher.messages)


async def test_a_split_counts_each_arm(tmp_path: Path, settings: dict[str, str]) -> None:
    """Half of the predictions lie in the second store, all of them are read, and `/metrics` tells the arms apart."""
    composed = {"TIDINGS_STORE_SPLIT": "sqlite:///data/b.db=50", **CACHE_NOTHING}
    async with filled(tmp_path, {**settings, **composed}) as (service, session):
        for n in range(20):
            record = await get(session, service.url, f"p{n}")
            assert record is not None
        for arm in "ab":
            for operation in ("get", "write", "load"):
                start = f'tidings_storage_success_total{{arm="{arm}",operation="{operation}",store="sqlite"'
                assert await metric(session, service.url, start) > 0, (arm, operation)
        async with session.get(f"{service.url}/api/predictions?limit=100") as answer:
            assert len((await answer.json())["data"]) == 20


async def test_what_does_not_go_together_stops_the_start(tmp_path: Path) -> None:
    """One line names the setting and the remedy."""
    settings = {"TIDINGS_STORE_FALLBACK": "sqlite:///data/store.db"}
    ended = await tidings(tmp_path, "serve", "--port", "0", settings=settings)
    assert ended.code != 0
    assert "TIDINGS_STORE_FALLBACK: is the store itself" in ended.line
