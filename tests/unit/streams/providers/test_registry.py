"""Which providers are opened."""

import importlib.metadata

import pytest

from tests.support.providers.bodies import SECRET
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.registry import GROUP, known_providers, open_providers


def test_only_what_can_be_proven_is_opened() -> None:
    """A provider without its secret is not there; a token for submitting is no proof."""
    opened = open_providers(
        {"replicate": Configuration(token="r8_x"), "standard": Configuration(secret=(SECRET,))}
    )
    assert list(opened) == ["standard"]
    assert opened["standard"].name == "standard"


def test_an_unknown_provider_is_named() -> None:
    """A name that nobody knows stops the start with the names that are known."""
    with pytest.raises(BadConfiguration, match=r"'replicat'.*replicate"):
        open_providers({"replicat": Configuration(secret=(SECRET,))})


@pytest.mark.parametrize("name", ["", "A", "a/b", "../x", "a b"])
def test_a_name_must_fit_an_address(name: str) -> None:
    """A name that could not stand in the webhook's address is refused."""
    with pytest.raises(BadConfiguration, match="cannot name a provider"):
        open_providers({name: Configuration(secret=(SECRET,))})


def test_one_kind_under_two_names() -> None:
    """An entry may be of another provider's kind, and speaks under its own name."""
    opened = open_providers({"acme": Configuration(kind="standard", secret=(SECRET,))})
    assert opened["acme"].name == "acme"


def open_acme(name: str, configuration: Configuration) -> Provider | None:
    return open_providers({"standard": configuration}).get("standard")


def test_a_third_party_adds_one_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed entry point of the group is a provider like the others.

    One that cannot be loaded is named.
    """
    points = importlib.metadata.EntryPoints(
        [
            importlib.metadata.EntryPoint("acme", f"{__name__}:open_acme", GROUP),
            importlib.metadata.EntryPoint("broken", "no_such_module:x", GROUP),
        ]
    )
    monkeypatch.setattr(
        "tidings.streams.providers.registry.entry_points", lambda **query: points.select(**query)
    )
    assert "acme" in known_providers()
    assert "acme" in open_providers({"acme": Configuration(secret=(SECRET,))})
    with pytest.raises(BadConfiguration, match="broken"):
        open_providers({"broken": Configuration(secret=(SECRET,))})
