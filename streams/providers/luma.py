"""Luma Dream Machine: nothing is signed, so a token in the callback's address proves it.

Pure. Source: Luma's API reference, generations and callbacks.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from storage.prediction import ABSENT, Status
from streams.event import Event
from streams.providers import body as bodies
from streams.providers.configuration import Configuration
from streams.providers.provider import BadSignature, Webhook
from streams.providers.signatures import check_word, open_secrets

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


class _Identity(Struct, frozen=True, gc=False):
    id: str | None = None


_generation = msgspec.json.Decoder(_Generation)
_identity = msgspec.json.Decoder(_Identity)


class Luma(Struct, frozen=True):
    """Luma's callbacks."""

    secrets: tuple[bytes, ...]
    name: str = "luma"

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Luma({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> None:  # noqa: ARG002 - by the protocol
        """Refuses: nothing in headers or body proves it; see `verify_address`."""
        raise BadSignature("nothing is signed; give the provider an address with a token")

    def verify_address(self, token: str | None, proven: bool) -> None:
        """By the prediction's own token, or by the configured secret as the address's token."""
        if not proven:
            check_word(self.secrets, token)

    def prediction_id(self, body: bytes) -> str | None:
        """The generation's `id`."""
        found = bodies.peek(_identity, body)
        return found.id if found is not None else None

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
