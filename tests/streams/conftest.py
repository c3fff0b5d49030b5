"""A log of each kind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams.log import Log
from streams.logs import open_log
from streams.memory_log import MemoryLog


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """A log of each kind, with several partitions where it can have them."""
    match request.param:
        case "memory":
            opened: Log = MemoryLog(partitions=3)
        case "sqlite":
            opened = await open_log(f"sqlite:///{tmp_path}/log.db")
        case _:
            url: str = request.getfixturevalue("kafka_url")
            prefix: str = request.getfixturevalue("topic_prefix")
            opened = await open_log(url, topic_prefix=prefix, partitions=3)
    yield opened
    await opened.close()
