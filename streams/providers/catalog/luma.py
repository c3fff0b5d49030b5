"""Luma Dream Machine: nothing is signed, so a token in the callback's address proves it.

Pure. Source: Luma's API reference, generations and callbacks.
"""

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import ByAddress, open_secrets
from tidings.streams.rules.event import Event

STATUSES = {
    "queued": Status.STARTING,
    "dreaming": Status.PROCESSING,
    "completed": Status.SUCCEEDED,
    "failed": Status.FAILED,
}


class _Generation(Struct, frozen=True, gc=False):
    id: str | None = None
    state: str | None = None
    model: str | None = None
    assets: Raw = ABSENT
    failure_reason: str | None = None
    request: Raw = ABSENT


_generation = msgspec.json.Decoder(_Generation)


class Luma(ByAddress, Struct, frozen=True):
    """Luma's callbacks."""

    secrets: tuple[bytes, ...]
    name: str = "luma"

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Luma({len(self.secrets)} secrets)"

    def prediction_id(self, body: bytes) -> str | None:
        """The generation's `id`."""
        return bodies.plain_id(body)

    def translate(self, webhook: Webhook) -> Event:
        """The generation as it stands."""
        generation = bodies.decode(_generation, webhook.body)
        payload = bodies.given(generation.request)
        return bodies.event(
            webhook,
            self.name,
            generation.id,
            status=bodies.status(STATUSES, generation.state, self.name),
            payload=payload,
            prompt=bodies.prompt(payload),
            model=generation.model,
            output=bodies.given(generation.assets),
            error=generation.failure_reason,
        )


def open_provider(name: str, configuration: Configuration) -> Luma | None:
    """Open Luma: with a token for its API (addresses then carry each prediction's own), or a secret for addresses.

    Raises:
        BadConfiguration: A secret is empty.
    """
    secrets = open_secrets(name, configuration)
    return Luma(secrets, name) if secrets or configuration.token else None
