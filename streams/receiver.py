"""A provider's webhooks in any framework, for programs without a log: proven, understood, and stored.

```python
receiver = WebhookReceiver(manager, "replicate", secret="whsec_...")
await receiver.handle(request.headers, await request.body())
```
"""

from collections.abc import Mapping

from msgspec import Struct, structs

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Prediction
from tidings.streams.log.headers import (
    PROVIDER_HEADER,
    RECEIVED_HEADER,
)
from tidings.streams.manager import PredictionStatusManager
from tidings.streams.processing.decoder import decode_event
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.protocol import USAGE_STAMP
from tidings.streams.providers.registry import open_provider


class _Webhook(Struct, frozen=True):
    """A webhook as a record of a log would hold it."""

    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp: int
    key: bytes | None = None
    topic: str = "webhooks"
    partition: int = 0
    offset: int = 0


class WebhookReceiver:
    """Takes the webhooks of one provider.

    Args:
        manager: Keeps the predictions.
        provider: Its name, such as `replicate`.
        secret: What proves its webhooks; several while they rotate.
        clock: Tells the time.

    Raises:
        BadConfiguration: There is no such provider, or it needs something else.
    """

    def __init__(
        self,
        manager: PredictionStatusManager,
        provider: str,
        *,
        secret: str | tuple[str, ...],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        secrets = (secret,) if isinstance(secret, str) else tuple(secret)
        opened = open_provider(provider, Configuration(secret=secrets))
        if opened is None:
            raise BadConfiguration(f"{provider}: a secret does not suffice; use the service")
        self._manager = manager
        self._provider = opened
        self._clock = clock

    async def handle(
        self, headers: Mapping[str, str], body: bytes, *, prediction_id: str | None = None
    ) -> Prediction | None:
        """Take one webhook.

        Args:
            headers: Of the request, as your framework has them.
            body: As it came, byte for byte: the proof is over it.
            prediction_id: From your address, if that names one; None: the body says it.

        Returns:
            The prediction as it stands then; None: it was deleted.

        Raises:
            BadSignature: It is not proven; answer 401.
            Poison: It is proven, and makes no sense; answer 200, and look at it.
            StorageError: It is not stored; answer 503, and the provider sends it again.
        """
        now = self._clock.ms()
        plain = {name.lower(): value for name, value in headers.items()}
        self._provider.verify(plain, body, now / 1000)
        stamps = [
            (PROVIDER_HEADER, self._provider.name.encode()),
            (RECEIVED_HEADER, b"%d" % now),
            USAGE_STAMP,
        ]
        key = None if prediction_id is None else prediction_id.encode()
        record = _Webhook(body, stamps, now, key)
        event = decode_event(record, {self._provider.name: self._provider})
        return await self._manager.report(structs.replace(event, recorded_at=now, source="library"))
