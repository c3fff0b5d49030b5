"""Which providers there are, and those that the settings open.

A third party adds one by an entry point of the group `tidings.providers`: its name is the provider's, its value a
function `(name, configuration) -> Provider | None`.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import cast

from msgspec import Struct

from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.protocol import BadSignature, Provider, Webhook
from tidings.streams.rules.event import Event

Open = Callable[[str, Configuration], Provider | None]

GROUP = "tidings.providers"

PROVIDERS: Mapping[str, str] = {
    "standard": "tidings.streams.providers.catalog.standard:open_provider",
    "replicate": "tidings.streams.providers.catalog.replicate:open_provider",
    "fal": "tidings.streams.providers.catalog.fal:open_provider",
    "openai": "tidings.streams.providers.catalog.openai:open_provider",
    "gemini": "tidings.streams.providers.catalog.gemini:open_provider",
    "runpod": "tidings.streams.providers.catalog.runpod:open_provider",
    "baseten": "tidings.streams.providers.catalog.baseten:open_provider",
    "elevenlabs": "tidings.streams.providers.catalog.elevenlabs:open_provider",
    "bfl": "tidings.streams.providers.catalog.bfl:open_provider",
    "assemblyai": "tidings.streams.providers.catalog.assemblyai:open_provider",
    "luma": "tidings.streams.providers.catalog.luma:open_provider",
    "generic": "tidings.streams.providers.catalog.generic:open_provider",
}
"""Dotted paths: a provider's module is loaded when its settings are there."""

DESCRIBED = "generic"
"""Its mapping is in the settings."""
PROVEN_BY_KEYS = frozenset({"fal"})

_name = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def open_providers(configurations: Mapping[str, Configuration]) -> dict[str, Provider]:
    """The providers that can prove their webhooks; one without a secret (or what stands for it) is left out.

    Args:
        configurations: Per name in the webhook's address, what the settings say of it.

    Raises:
        BadConfiguration: A name that nobody knows, or a setting that cannot be used; the message names it.
    """
    opened = {
        name: open_provider(name, configuration) for name, configuration in configurations.items()
    }
    return {name: provider for name, provider in opened.items() if provider is not None}


class TranslationOnly(Struct, frozen=True):
    """A provider that nobody has configured: its mapping, which needs no secret, and a door that is always shut."""

    mapping: Provider

    @property
    def name(self) -> str:
        """As in a webhook's address."""
        return self.mapping.name

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:  # noqa: ARG002 - see Provider
        """Refuse it; raises `BadSignature` always."""
        raise BadSignature(f"the provider {self.name} is not configured")

    def prediction_id(self, body: bytes) -> str | None:
        """As the mapping reads it."""
        return self.mapping.prediction_id(body)

    def translate(self, webhook: Webhook) -> Event:
        """As the mapping does."""
        return self.mapping.translate(webhook)


_UNPROVEN = Configuration(secret=("whsec_" + "A" * 43 + "=",))
_UNPROVEN_KEYS = Configuration(jwks_url="https://keys.invalid/")


class Translators(Mapping[str, Provider]):
    """The mappings of all providers: the configured ones', and for the others those that no setting has a say in.

    What a webhook in the log means must not depend on a secret that may be withdrawn: a replay would lose it. None of
    the mappings added here proves anything (`TranslationOnly`); each is loaded when a webhook of its provider comes.

    Args:
        configured: As `open_providers` gives them.
    """

    def __init__(self, configured: Mapping[str, Provider]) -> None:
        self._known = dict(configured)

    def __getitem__(self, name: str) -> Provider:
        provider = self._known.get(name)
        if provider is None:
            if name not in PROVIDERS or name == DESCRIBED:
                raise KeyError(name)
            mapping = open_provider(name, _UNPROVEN_KEYS if name in PROVEN_BY_KEYS else _UNPROVEN)
            assert mapping is not None
            provider = self._known[name] = TranslationOnly(mapping)
        return provider

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **{name: None for name in PROVIDERS if name != DESCRIBED}})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def open_provider(name: str, configuration: Configuration) -> Provider | None:
    """One provider; None where it is not configured."""
    if not _name.fullmatch(name):
        raise BadConfiguration(
            f"{name!r} cannot name a provider: small letters, digits, `-` and `_`"
        )
    return _find(configuration.kind or name)(name, configuration)


def known_providers() -> list[str]:
    """Every name that can be configured, entry points included."""
    return sorted({*PROVIDERS, *(point.name for point in entry_points(group=GROUP))})


def _find(kind: str) -> Open:
    path = PROVIDERS.get(kind)
    if path is not None:
        module, _, attribute = path.partition(":")
        return cast("Open", getattr(importlib.import_module(module), attribute))
    for point in entry_points(group=GROUP, name=kind):
        try:
            return cast("Open", point.load())
        except (ImportError, AttributeError) as error:
            raise BadConfiguration(
                f"the provider {kind!r} ({point.value}) cannot be loaded: {error}"
            ) from error
    raise BadConfiguration(
        f"no provider is called {kind!r}; known are {', '.join(known_providers())}"
    )
