"""Submitting from a program of its own, without a log: `tidings.Submission`.

```python
submission = Submission(
    manager, "replicate", token="r8_...", secret="whsec_...", webhook="https://you.example/hooks/{id}"
)
await submission.submit("p1", model="acme/draw", payload={"seed": 7})
```
"""

import uuid
from types import TracebackType
from typing import Any, Self, Unpack

from msgspec import Raw

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Prediction, Status
from tidings.streams.keywords import InitialFields
from tidings.streams.manager import PredictionStatusManager
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.job_api import Order, Origin, Submitted, submission_api_of
from tidings.streams.providers.registry import manifest, open_provider
from tidings.streams.rules.event import Event, EventType
from tidings.streams.submission.create_call import Cancelled, CreateCall, Declined
from tidings.streams.submission.http import HttpCalls
from tidings.streams.submission.submitter import PREFIX
from tidings.streams.submission.throttle import Limits, ProviderThrottle

LIMIT = 60.0
"""Seconds for which a provider that is overloaded or away is called again."""


class Submission:
    """Hands predictions of the library to one provider.

    Args:
        manager: Keeps the predictions.
        provider: Its name, such as `replicate`.
        token: Of its API.
        secret: What proves its webhooks.
        webhook: Where it reports; `{id}` stands for the prediction's id.
        url: Another address of its API; None: its own.
        limit: Seconds after which no call is begun any more.
        clock: Tells the time.

    Raises:
        BadConfiguration: There is no such provider, or nothing can be submitted to it.
    """

    def __init__(
        self,
        manager: PredictionStatusManager,
        provider: str,
        *,
        token: str,
        secret: str,
        webhook: str,
        url: str | None = None,
        limit: float = LIMIT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        opened = open_provider(provider, Configuration(token=token, secret=(secret,), url=url))
        api = submission_api_of(opened) if opened is not None else None
        if opened is None or api is None:
            raise BadConfiguration(f"{provider} takes no predictions from here")
        self._manager, self._provider, self._api = manager, provider, api
        self._webhook, self._limit, self._clock = webhook, limit, clock
        self._calls = HttpCalls()
        limits = Limits(creates_a_minute=manifest(provider).creates_a_minute)
        self._throttle = ProviderThrottle(provider, self._calls.send, limits, clock=clock)

    async def submit(
        self,
        prediction_id: str,
        payload: Any = None,
        prompt: str | None = None,
        *,
        model: str,
        **fields: Unpack[InitialFields],
    ) -> Prediction:
        """Write a new prediction down, and hand it to the provider.

        429 and 5xx are tried again within the limit; a call without an answer never is, as it may
        have begun.

        Returns:
            The prediction: `processing` with its `provider_id`; `failed` if the provider will
            not do it; `starting` if no answer came, and its webhook may still tell of it.

        Raises:
            ValueError: What is asked for cannot be a call of this provider.
            AlreadyExists, StoreUnavailable: As `initialize` does; nothing was called.
        """
        fields["provider"] = self._provider
        origin = Origin(prediction_id, f"attempt-{uuid.uuid4().hex}")
        webhook = self._webhook.replace("{id}", prediction_id)
        self._api.create(Order(model=model))  # what cannot be called is not written down either
        record = await self._manager.initialize(prediction_id, payload, prompt, model, **fields)
        record = await self._say(record, type=EventType.SUBMIT, attempt=origin.attempt)
        order = Order(
            model=model, payload=record.payload, prompt=prompt, webhook=webhook, origin=origin
        )
        try:
            call = self._api.create(order)
        except ValueError as error:
            return await self._say(record, status=Status.FAILED, error=PREFIX + str(error))
        creation = CreateCall(self._throttle, self._manager.get, self._limit)
        async with self._throttle.slot(creating=True):
            outcome = await creation.run(self._api, call, record, webhook)
        match outcome:
            case Submitted():
                return await self._say(
                    record,
                    status=Status.PROCESSING,
                    provider=self._provider,
                    provider_id=outcome.provider_id,
                    provider_urls=outcome.urls or Raw(),
                )
            case Declined():
                reason = PREFIX + outcome.reason
                return await self._say(record, status=Status.FAILED, error=reason)
            case Cancelled(requested=True):
                return await self._say(record, status=Status.CANCELED)
        return await self._manager.get(prediction_id) or record

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _say(self, record: Prediction, **fields: Any) -> Prediction:
        now = self._clock.ms()
        event = Event(
            prediction_id=record.prediction_id,
            at=now,
            recorded_at=now,
            source="library",
            **fields,
        )
        return await self._manager.report(event) or record
