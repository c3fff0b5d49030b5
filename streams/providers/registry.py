"""Which providers there are, and those that the settings open.

A provider is a file of `catalog`: its name is the file's, and its `MANIFEST` says the rest. A third
party adds one by an entry point of the group `tidings.providers`: its name is the provider's, its
value a `Manifest`, or just the function `(name, configuration) -> Provider | None` that opens it.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from msgspec import Struct

from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.manifest import Manifest
from tidings.streams.providers.protocol import BadSignature, Provider, Webhook
from tidings.streams.rules.event import Event

GROUP = "tidings.providers"

_CATALOG = "tidings.streams.providers.catalog"
_name = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@cache
def built_in() -> tuple[str, ...]:
    """The names of the providers that come with this package."""
    folder = Path(__file__).with_name("catalog")
    return tuple(sorted(module.name for module in pkgutil.iter_modules([str(folder)])))


def known_providers() -> list[str]:
    """Every name that can be configured, entry points included."""
    return sorted({*built_in(), *(point.name for point in entry_points(group=GROUP))})


def manifest(kind: str) -> Manifest:
    """What a provider is. Its module is loaded now, and not before.

    Raises:
        BadConfiguration: Nobody knows it, or it cannot be loaded.
    """
    if kind in built_in():
        found = importlib.import_module(f"{_CATALOG}.{kind}").MANIFEST
        assert isinstance(found, Manifest)
        return found
    for point in entry_points(group=GROUP, name=kind):
        try:
            value = point.load()
        except (ImportError, AttributeError) as error:
            raise BadConfiguration(
                f"the provider {kind!r} ({point.value}) cannot be loaded: {error}"
            ) from error
        if isinstance(value, Manifest):
            return value
        return Manifest(open=value, configured_by="", proof="", options=None)
    raise BadConfiguration(
        f"no provider is called {kind!r}; known are {', '.join(known_providers())}"
    )


def open_providers(configurations: Mapping[str, Configuration]) -> dict[str, Provider]:
    """The providers that can prove their webhooks.

    One without a secret (or what stands for it) is left out.

    Args:
        configurations: Per name in the webhook's address, what the settings say of it.

    Raises:
        BadConfiguration: A name that nobody knows, or a setting that cannot be used; the message
            names it.
    """
    opened = {
        name: open_provider(name, configuration) for name, configuration in configurations.items()
    }
    return {name: provider for name, provider in opened.items() if provider is not None}


def open_provider(name: str, configuration: Configuration) -> Provider | None:
    """One provider; None if it is not configured."""
    if not _name.fullmatch(name):
        raise BadConfiguration(
            f"{name!r} cannot name a provider: small letters, digits, `-` and `_`"
        )
    return manifest(configuration.kind or name).open(name, configuration)


class TranslationOnly(Struct, frozen=True):
    """A provider that nobody has configured.

    Its mapping, which needs no secret, and nothing that it proves.
    """

    mapping: Provider

    @property
    def name(self) -> str:
        """As in a webhook's address."""
        return self.mapping.name

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """Refuse it; raises `BadSignature` always."""
        raise BadSignature(f"the provider {self.name} is not configured")

    def prediction_id(self, body: bytes) -> str | None:
        """As the mapping reads it."""
        return self.mapping.prediction_id(body)

    def translate(self, webhook: Webhook) -> Event:
        """As the mapping does."""
        return self.mapping.translate(webhook)


class Translators(Mapping[str, Provider]):
    """The mappings of all providers.

    The configured ones', and for the others those that no setting has a say in.

    What a webhook in the log means must not depend on a secret that may be withdrawn: a replay
    would lose it. None of the mappings added here proves anything (`TranslationOnly`); each is
    loaded when a webhook of its provider comes.

    Args:
        configured: As `open_providers` gives them.
    """

    def __init__(self, configured: Mapping[str, Provider]) -> None:
        self._known = dict(configured)

    def __getitem__(self, name: str) -> Provider:
        provider = self._known.get(name)
        if provider is None:
            if name not in built_in() or not (found := manifest(name)).translates_unconfigured:
                raise KeyError(name)
            mapping = found.open(name, found.unproven())
            assert mapping is not None
            provider = self._known[name] = TranslationOnly(mapping)
        return provider

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **dict.fromkeys(translated_unconfigured())})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def translated_unconfigured() -> list[str]:
    """The built-in providers whose webhooks can be translated without any setting."""
    return [name for name in built_in() if manifest(name).translates_unconfigured]
