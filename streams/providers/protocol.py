"""The protocol of a provider: how its webhooks prove themselves and what they say."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from tidings.streams.log.headers import USAGE_HEADER
from tidings.streams.rules.event import Archive, Event


class BadSignature(ValueError):
    """The webhook is not proven: its signature is missing, unparsable, stale or wrong."""


class KeysUnavailable(BadSignature):
    """The provider's public keys have not been fetched yet.

    The webhook may be genuine, and a retry may prove it.
    """


class UnprovenByHeaders(BadSignature):
    """The headers alone show it (one is missing or stale), so the body need not be read."""


USAGE_STAMP = (USAGE_HEADER, b"2")
"""The header of every webhook that is appended now; the value names the rules. 1: its body is asked for usage. 2: for
questions, too."""


class Webhook(Struct, frozen=True, gc=False):
    """A webhook as it came, with what is known of it from its log record."""

    body: bytes
    prediction_id: str | None
    """From the record's key; None: the body's own id counts."""
    at: int
    """The log record's timestamp, in ms."""
    delivery: str | None = None
    """The provider's id of the delivery."""
    archive: Archive = Archive.AFTER
    traceparent: bytes | None = None
    usage: bool = False
    """Whether what the body says of usage counts: it was appended since usage is read."""
    questions: bool = False
    """Whether a question in the body counts: it was appended since questions are read."""


class Provider(Protocol):
    """One provider. Implementations are frozen and hold only their configuration."""

    @property
    def name(self) -> str:
        """As in the address of its webhooks and in the settings."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """Prove the webhook on its raw bytes. In the gateway.

        Args:
            headers: Names in lower case.
            body: As received, before any parsing.
            now: Seconds since the epoch, for the tolerance.

        Returns:
            The provider's id of the delivery, if it has one.

        Raises:
            BadSignature: For whatever reason it is not proven; the message never repeats a secret.
        """

    def prediction_id(self, body: bytes) -> str | None:
        """The id that the webhook is about (all that the gateway reads of a body).

        None: it cannot be told.
        """

    def translate(self, webhook: Webhook) -> Event:
        """What the webhook says. Pure; in the processor.

        Raises `Poison` if it makes no sense.
        """
