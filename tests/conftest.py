"""Fixtures shared by all tests."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import system
from tests.support.broker import Broker
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET
from tidings.streams.log.factory import open_log
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import Log

# No limit on the time of one example: what is measured on a busy machine is the machine.
hypothesis.settings.register_profile("short", max_examples=100, deadline=None)
hypothesis.settings.register_profile("long", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("short")


@pytest.fixture(scope="session")
def kafka_address() -> Iterator[str]:
    """`host:port` of a real broker, started once per run; `TIDINGS_TEST_KAFKA` names another one."""
    given = os.environ.get("TIDINGS_TEST_KAFKA")
    if given:
        yield given.removeprefix("kafka://")
        return
    system.require(*system.broker_parts())
    broker = Broker()
    try:
        broker.start()
        yield broker.bootstrap
    finally:
        broker.close()


@pytest.fixture
def kafka_url(kafka_address: str) -> str:
    """The URL of a log on the run's broker; to be opened with the test's own `topic_prefix`."""
    return f"kafka://{kafka_address}"


@pytest.fixture
def topic_prefix() -> str:
    """A prefix of the test's own: tests that share a broker do not meet."""
    return f"test-{uuid.uuid4().hex[:12]}."


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker of the test's own, running, for tests that harm it."""
    system.require(system.JAVA, system.MAVEN)
    broker = Broker()
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


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


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of a log of the test's own."""
    if request.param == "sqlite":
        return {}
    url: str = request.getfixturevalue("kafka_url")
    prefix: str = request.getfixturevalue("topic_prefix")
    return {"TIDINGS_LOG": url, "TIDINGS_TOPIC_PREFIX": prefix, "TIDINGS_PARTITIONS": "4"}


@pytest.fixture
def settings(log_settings: dict[str, str]) -> dict[str, str]:
    """Those of a service that knows Replicate and Standard Webhooks."""
    return {**log_settings, "TIDINGS_REPLICATE_SECRET": SECRET, "TIDINGS_STANDARD_SECRET": SECRET}


@pytest.fixture
async def service(tmp_path: Path, settings: dict[str, str]) -> AsyncIterator[TidingsProcess]:
    """A running service."""
    async with serving(tmp_path, settings) as running:
        yield running
