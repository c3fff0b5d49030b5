"""Fixtures shared by all tests."""

import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import system
from tests.broker import Broker

# No limit on the time of one example: what is measured on a busy machine is the machine.
settings.register_profile("short", max_examples=100, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile("short")


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
