"""What the rest of the service knows of a provider, said once, in the provider's own file. Pure.

Each file of `catalog` ends with a `MANIFEST`. Settings, their documentation, limits of calls,
translation without a secret and the check of `tidings doctor` derive from it, so a new provider is
one new file.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from msgspec import Struct

from tidings.streams.providers.configuration import Configuration, setting_name
from tidings.streams.providers.protocol import Provider

Open = Callable[[str, Configuration], Provider | None]
"""Opens a provider by its name and settings; None: it is not configured. Raises
`BadConfiguration`."""


class Manifest(Struct, frozen=True, kw_only=True):
    """A provider, before it is opened."""

    open: Open
    configured_by: str
    """For the documentation: what turns it on."""
    proof: str
    """For the documentation: how its webhooks prove themselves."""
    required: str = "secret"
    """The setting without which nothing of it can be proven: `secret`, or `jwks_url`."""
    takes_jwks_url: bool = False
    options: frozenset[str] | None = frozenset()
    """Settings in its table of `tidings.toml` that only it knows; None: it checks them itself."""
    translates_unconfigured: bool = True
    """Whether what its webhooks mean is known without any setting."""
    creates_a_minute: int | None = None
    """What the provider is known to allow; None: 429 says it."""

    def missing(self, name: str) -> str:
        """The setting to set so that its webhooks are taken: `TIDINGS_REPLICATE_SECRET`."""
        return setting_name(name, self.required.upper())

    def unproven(self) -> Configuration:
        """Settings that open it without anybody's secret, for what it translates."""
        if self.required == "jwks_url":
            return Configuration(jwks_url="https://keys.invalid/")
        return Configuration(secret=("whsec_" + "A" * 43 + "=",))


class SampleWebhook(Struct, frozen=True):
    """A webhook as the provider would send it, proven by what is configured.

    To try a service's whole way.
    """

    body: bytes
    headers: Mapping[str, str]
    token: str | None = None
    """In the address, if that is the proof; empty: the token of the prediction's own address."""


class Unsigned(ValueError):
    """No webhook of this provider can be signed here; the message says why."""


@runtime_checkable
class Sampled(Protocol):
    """A provider that can sign a webhook as its service would."""

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """A webhook that says that a prediction succeeded, and names no file.

        Args:
            prediction_id: Stands where the provider's own id does.
            now: Seconds since the epoch, for what is signed with a time.

        Raises:
            Unsigned: The provider proves its webhooks with what only it has.
        """


def sample_of(provider: Provider, prediction_id: str, now: int) -> SampleWebhook:
    """See `Sampled.sample`; raises `Unsigned` for a provider that has none too."""
    if not isinstance(provider, Sampled):
        raise Unsigned(f"how {provider.name} signs is known to its own code alone")
    return provider.sample(prediction_id, now)
