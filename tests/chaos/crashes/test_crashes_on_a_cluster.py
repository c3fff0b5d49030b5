"""The main job with its state spread over a Valkey cluster, of which one node dies and comes back."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.chaos.crashes.test_crashes import KEY, check_complete, loaded_gateway
from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.support.valkey_cluster import ValkeyCluster
from tests.support.webhooks import SECRET

PROCESSOR = ("serve", "--role", "processor")


@pytest.fixture
def nodes() -> Iterator[ValkeyCluster]:
    """Three primaries, to be harmed."""
    cluster = ValkeyCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


async def every_slot_is_read(url: str, prediction_ids: Iterable[str]) -> bool:
    """Whether these predictions can be read, wherever in the cluster they are."""
    async with aiohttp.ClientSession() as session:
        for prediction_id in list(prediction_ids):
            async with session.get(f"{url}/api/predictions/{prediction_id}") as response:
                if response.status == 503:
                    return False
    return True


async def test_a_node_dies_and_comes_back(tmp_path: Path, nodes: ValkeyCluster) -> None:
    """A node that is killed under load and started again: webhooks are taken all the while, and nothing is lost."""
    settings = {"TIDINGS_REPLICATE_SECRET": SECRET, "TIDINGS_STORE": nodes.url}
    async with (
        loaded_gateway(tmp_path, settings) as (gateway, load, watcher),
        serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR) as processor,
    ):
        for node in nodes.primaries[:2]:
            before = len(watcher.messages)
            await eventually(lambda before=before: len(watcher.messages) > before + 30, 60)  # type: ignore[misc]
            told = processor.output.count("processor.paused")
            await asyncio.to_thread(node.kill)
            await eventually(
                lambda told=told: processor.output.count("processor.paused") > told,  # type: ignore[misc]
                60,
            )
            accepted = len(load.finished)
            await eventually(lambda accepted=accepted: len(load.finished) > accepted, 60)  # type: ignore[misc]
            await asyncio.to_thread(node.start)
        # A node that has just started refuses its slots until the others know it again, and a read there is answered 503.
        await eventually(lambda: every_slot_is_read(gateway.url, load.finished), 20)
        await check_complete(gateway, load, watcher)
        assert "Traceback" not in processor.output
