"""A service with all roles in the test's own loop, working with a stand-in provider.

And impatient.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec.structs import replace

from tests.support.conditions import eventually
from tests.support.providers.bad_days import BadDays
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.tidings_process import environment
from tidings.config.loader import load_settings
from tidings.config.webhook_key import with_webhook_key
from tidings.runtime import service
from tidings.runtime.service import Service
from tidings.streams.submission.reconcile_policy import Timeouts
from tidings.streams.submission.throttle import ProviderThrottle

QUICK = Timeouts(
    silence=300,
    unsubmitted=200,
    unanswered=200,
    unknown=30_000,
    attempt=20_000,
    cancel=100,
    longest=1_000,
)
KEY = {"TIDINGS_WEBHOOK_KEY": "a key of the tests, of thirty-two bytes"}


class Work:
    """What a test holds of it."""

    def __init__(
        self, running: Service, stand_in: FaultyStandIn, client: httpx.AsyncClient
    ) -> None:
        self.service = running
        self.stand_in = stand_in
        self.client = client

    async def create(self, **order: Any) -> dict[str, Any]:
        """Order a prediction; returns its record."""
        answer = await self.client.post("/api/predictions", json=an_order(**order))
        assert answer.status_code == 201, answer.text
        record: dict[str, Any] = answer.json()["data"]
        return record

    async def get(self, prediction_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/api/predictions/{prediction_id}")
        record: dict[str, Any] = answer.json()["data"]
        return record

    async def cancel(self, prediction_id: str) -> None:
        answer = await self.client.post(f"/api/predictions/{prediction_id}/cancel")
        assert answer.status_code == 202, answer.text

    async def becomes(
        self, prediction_id: str, *statuses: str, within: float = 60
    ) -> dict[str, Any]:
        """Wait until a prediction has one of these statuses; returns its record."""
        return await becomes(self.client, prediction_id, *statuses, within=within)

    def bad(self, **switches: float) -> None:
        """Let the provider have such a day; those left out are off."""
        self.stand_in.bad_days = msgspec.convert(switches, BadDays)

    @property
    def throttle(self) -> ProviderThrottle:
        """The throttle to Replicate."""
        assert self.service.provider_work is not None
        return self.service.provider_work.throttles["replicate"]


async def becomes(
    client: httpx.AsyncClient, prediction_id: str, *statuses: str, within: float = 60
) -> dict[str, Any]:
    """Wait until a prediction has one of these statuses; returns its record."""
    last: dict[str, Any] = {}

    async def there() -> bool:
        answer = await client.get(f"/api/predictions/{prediction_id}")
        if answer.status_code == 200:
            last.clear()  # a field may go, as an output does beside the text that says the same
            last.update(answer.json()["data"])
        return last.get("status") in statuses

    try:
        await eventually(there, within)
    except AssertionError:
        raise AssertionError(f"not {statuses}: {last}") from None
    return last


def an_order(**order: Any) -> dict[str, Any]:
    """The body of a `POST /api/predictions`."""
    wanted = {
        "provider": "replicate",
        "model": "owner/model",
        "prompt": "a cat",
        "payload": {"steps": 2},
    }
    return {**wanted, **order}


def creates(stand_in: FaultyStandIn) -> Counter[str]:
    """How many predictions the provider was asked for, by the webhook's address."""
    replicate, fal = stand_in._apis
    counted = Counter(asked.webhook or "" for asked in replicate._asked.values())
    return counted + Counter(webhook or "" for webhook in fal._webhooks.values())


def variables(stand_in: FaultyStandIn) -> dict[str, str]:
    """The settings of a service that works with the stand-in."""
    return {**stand_in.environment(), "TIDINGS_PUBLIC_URL": "http://127.0.0.1:0", **KEY}


@asynccontextmanager
async def at_work(
    folder: Path,
    stand_in: FaultyStandIn,
    more: Mapping[str, str] | None = None,
    *,
    timeouts: Timeouts = QUICK,
) -> AsyncIterator[Work]:
    """A running service, and what talks to it; `more` are settings by variable."""
    places = {
        "TIDINGS_LOG": f"sqlite:////{folder}/log.db",
        "TIDINGS_STORE": f"sqlite:////{folder}/store.db",
        "TIDINGS_ASSETS": f"file:////{folder}/assets",
        "TIDINGS_ASSETS_TTL": "0",
    }
    settings = load_settings(
        {"port": "0"},
        environ=environment({**places, **variables(stand_in), **(more or {})}),
        config=None,
    )
    settings = with_webhook_key(replace(settings, host="127.0.0.1"))
    async with (
        service.running(settings, timeouts=timeouts) as running,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}", timeout=30) as client,
    ):
        yield Work(running, stand_in, client)
