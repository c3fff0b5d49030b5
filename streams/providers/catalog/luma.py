"""Luma Dream Machine: nothing is signed, so a token in the callback's address proves it.

Pure. Source: Luma's API reference, generations and callbacks.
"""

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.manifest import Manifest
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
    failure_reason: Raw = ABSENT
    request: Raw = ABSENT


_generation = bodies.Reader(_Generation)


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
        generation, left_out = _generation.read(webhook.body)
        payload = bodies.given(generation.request)
        return bodies.event(
            webhook,
            self.name,
            generation.id,
            left_out=left_out,
            status=bodies.status(STATUSES, generation.state, self.name),
            payload=payload,
            prompt=bodies.prompt(payload),
            model=generation.model,
            output=bodies.given(generation.assets),
            error=bodies.text(generation.failure_reason),
        )

    def _sample_body(self, prediction_id: str) -> bytes:
        return msgspec.json.encode({"id": prediction_id, "state": "completed"})


def open_provider(name: str, configuration: Configuration) -> Luma | None:
    """Open Luma, by a token for its API or a secret for addresses.

    With a token alone, each prediction's address carries a token of its own.

    Raises:
        BadConfiguration: A secret is empty.
    """
    secrets = open_secrets(name, configuration)
    return Luma(secrets, name) if secrets or configuration.token else None


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_LUMA_TOKEN` (each prediction's address then has its own token), or `_SECRET` as the token "
    "of every address",
    proof="a token in the webhook's address: nothing is signed",
)
