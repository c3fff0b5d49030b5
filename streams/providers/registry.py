"""Which providers there are, and those that the settings open.

A third party adds one by an entry point of the group `tidings.providers`: its name is the provider's, its value a
function `(name, configuration) -> Provider | None`.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from streams.providers.configuration import BadConfiguration, Configuration
from streams.providers.provider import Provider

Open = Callable[[str, Configuration], Provider | None]

GROUP = "tidings.providers"

PROVIDERS: Mapping[str, str] = {
    "standard": "streams.providers.standard:open_provider",
    "replicate": "streams.providers.replicate:open_provider",
    "fal": "streams.providers.fal:open_provider",
    "openai": "streams.providers.openai:open_provider",
    "gemini": "streams.providers.gemini:open_provider",
    "runpod": "streams.providers.runpod:open_provider",
    "baseten": "streams.providers.baseten:open_provider",
    "elevenlabs": "streams.providers.elevenlabs:open_provider",
    "bfl": "streams.providers.bfl:open_provider",
    "assemblyai": "streams.providers.assemblyai:open_provider",
    "luma": "streams.providers.luma:open_provider",
    "generic": "streams.providers.generic:open_provider",
}
"""Dotted paths: a provider's module is loaded when its settings are there."""

_name = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def open_providers(configurations: Mapping[str, Configuration]) -> dict[str, Provider]:
    """The providers that can prove their webhooks; one without a secret (or what stands for it) is left out.

    Args:
        configurations: Per name in the webhook's address, what the settings say of it.

    Raises:
        BadConfiguration: A name that nobody knows, or a setting that cannot be used; the message names it.
    """
    opened = {name: open_provider(name, configuration) for name, configuration in configurations.items()}
    return {name: provider for name, provider in opened.items() if provider is not None}


def open_provider(name: str, configuration: Configuration) -> Provider | None:
    """One provider; None where it is not configured."""
    if not _name.fullmatch(name):
        raise BadConfiguration(f"{name!r} cannot name a provider: small letters, digits, `-` and `_`")
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
            raise BadConfiguration(f"the provider {kind!r} ({point.value}) cannot be loaded: {error}") from error
    raise BadConfiguration(f"no provider is called {kind!r}; known are {', '.join(known_providers())}")
