"""A running service on each kind of log, and what sends it webhooks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.main_job.webhooks import SECRET
from tests.tidings_process import TidingsProcess, serving


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
