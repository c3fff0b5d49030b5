"""Other proofs: HMAC-SHA256 in hex, a shared word in a header, a token in the address. Pure."""

import hmac
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from tidings.streams.providers.configuration import BadConfiguration, Configuration, setting_name
from tidings.streams.providers.manifest import SampleWebhook
from tidings.streams.providers.protocol import BadSignature, UnprovenByHeaders
from tidings.streams.providers.signatures.standard_webhooks import MAX_SIGNATURES, header_bytes


@runtime_checkable
class ProvenByAddress(Protocol):
    """A provider that signs nothing: what proves its webhooks is a token in their address.

    Its `verify` refuses everything, so a caller that does not know this protocol lets nothing in.
    """

    def verify_address(self, token: str | None, proven: bool) -> None:
        """Prove the webhook by its address.

        Args:
            token: From the address's query, if there is one.
            proven: Whether that token has already been found to be the one of the prediction that
                the address names.

        Raises:
            BadSignature: It is neither.
        """


class ByAddress:
    """What providers that sign nothing have in common.

    `ProvenByAddress` with the configured secrets.
    """

    __slots__ = ()

    secrets: tuple[bytes, ...]

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """Refuses: nothing in headers or body proves it; see `verify_address`."""
        raise BadSignature("nothing is signed; give the provider an address with a token")

    def verify_address(self, token: str | None, proven: bool) -> None:
        """By the prediction's own token, or by the configured secret as the address's token."""
        if proven:
            return
        try:
            check_word(self.secrets, token)
        except UnprovenByHeaders:
            # A query's `+` is read as a space (the rule of forms): a word in base64 that was pasted
            # into the address unescaped is meant as it stands there.
            check_word(self.secrets, (token or "").replace(" ", "+"))

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """With the first secret in its address, or the prediction's own token."""
        token = self.secrets[0].decode() if self.secrets else ""
        return SampleWebhook(self._sample_body(prediction_id), {}, token)

    def _sample_body(self, prediction_id: str) -> bytes:
        raise NotImplementedError


def open_secrets(provider: str, configuration: Configuration) -> tuple[bytes, ...]:
    """The secrets as the bytes of their text; none if none is set.

    Raises:
        BadConfiguration: One is empty.
    """
    if not all(configuration.secret):
        raise BadConfiguration(
            f"{setting_name(provider, 'SECRET')} has an empty entry; copy the secret, or unset it"
        )
    return tuple(secret.encode() for secret in configuration.secret)


def required(headers: Mapping[str, str], name: str) -> str:
    """A header that must be there, in whatever characters. Raises `BadSignature`."""
    value = headers.get(name)
    if not value:
        raise UnprovenByHeaders(f"the header {name} is missing")
    return value


def hex_hmac(secret: bytes, signed: bytes) -> str:
    """The HMAC-SHA256 in small hex letters."""
    return hmac.digest(secret, signed, "sha256").hex()


def check_hex_hmac(secrets: Iterable[bytes], signed: bytes, given: list[bytes]) -> None:
    """See that one of the given texts is the HMAC-SHA256, in small hex, under one of the secrets.

    Raises:
        BadSignature: None is.
    """
    if len(given) > MAX_SIGNATURES:
        raise BadSignature(f"more than {MAX_SIGNATURES} signatures in one header")
    expected = [hex_hmac(secret, signed).encode() for secret in secrets]
    if not any([hmac.compare_digest(one, right) for one in given for right in expected]):  # noqa: C419 - all compared
        raise BadSignature("no signature matches; compare the secret with the provider's")


def check_word(secrets: Iterable[bytes], given: str | None) -> None:
    """See that the given text is one of the secrets, in constant time.

    Raises:
        BadSignature: It is not.
    """
    word = header_bytes(given or "")
    if not any([hmac.compare_digest(word, secret) for secret in secrets]) or not word:  # noqa: C419 - all compared
        raise UnprovenByHeaders("the shared secret is missing or another")
