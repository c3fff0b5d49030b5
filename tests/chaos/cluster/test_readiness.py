"""Each role says honestly whether it is ready, and which part is broken."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.chaos.cluster.cluster import ROLES
from tests.chaos.cluster.linked import GATEWAYS, LinkedCluster, linked
from tests.chaos.cluster.schedule import Fault, Kind
from tests.support import system
from tests.support.conditions import eventually

pytestmark = pytest.mark.kafka

WRITERS = tuple(name for name in ROLES if name not in GATEWAYS)


def cut(part: str) -> Fault:
    return Fault(0, 0.0, part, Kind.CUT, 0.0)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LinkedCluster]:
    """A running cluster whose connections can be cut."""
    system.require(*system.broker_parts(), system.HAPROXY)
    async with linked(tmp_path / "cluster") as one:
        yield one


async def test_every_role_names_what_is_broken(cluster: LinkedCluster) -> None:
    """Without the log no role is ready, without the store none that writes it; all are alive, and ready again after."""
    async with aiohttp.ClientSession() as session:

        async def lacks(name: str) -> set[str]:
            """What a process says it lacks."""
            async with session.get(f"{cluster.processes[name].url}/readyz") as response:
                answer = await response.json()
                assert response.status == (503 if "notReady" in answer else 200)
                return set(answer.get("notReady", {}))

        async def lacking(part: str) -> set[str]:
            """The processes that say that they lack it."""
            return {name for name in ROLES if part in await lacks(name)}

        async def become_ready() -> None:
            for name in ROLES:

                async def ready(name: str = name) -> bool:
                    return not await lacks(name)

                await eventually(ready, 60)

        async def say(names: tuple[str, ...], part: str) -> None:
            async def they_do() -> bool:
                return await lacking(part) == set(names)

            await eventually(they_do, 40)
            for name in ROLES:  # an outage is waited out: a restart would not mend it
                async with session.get(f"{cluster.processes[name].url}/healthz") as response:
                    assert response.status == 200

        await become_ready()
        async with cluster.harmed(cut("broker")):
            await say(ROLES, "log")
        await become_ready()
        async with cluster.harmed(cut("postgres")):
            await say(WRITERS, "store")
            # Reads go on by the copy, until that is away too.
            async with cluster.harmed(cut("valkey")):
                await say(ROLES, "store")
        await become_ready()
