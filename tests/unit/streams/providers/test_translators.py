"""What a webhook in the log means does not depend on who is configured now."""

import pytest

from tests.support.providers.bodies import REPLICATE, SECRET
from tidings.storage.prediction import Status
from tidings.streams.log.protocol import StoredRecord
from tidings.streams.processing.decoder import decode_event
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import BadSignature
from tidings.streams.providers.registry import Translators, built_in, open_providers
from tidings.streams.rules.event import Poison

CONFIGURED = open_providers({"replicate": Configuration(secret=(SECRET,))})


def webhook(provider: str, body: bytes = REPLICATE) -> StoredRecord:
    return StoredRecord(
        "e", 0, 0, 1_764_000_000_000, None, body, (("tidings-provider", provider.encode()),)
    )


def test_a_withdrawn_secret_changes_no_record() -> None:
    """A webhook is translated the same with its provider configured and without."""
    with_secret, without = (
        decode_event(webhook("replicate"), CONFIGURED),
        decode_event(webhook("replicate"), Translators({})),
    )
    assert with_secret == without
    assert without.status is Status.SUCCEEDED


@pytest.mark.parametrize("name", sorted(set(built_in()) - {"generic"}))
def test_every_mapping_is_there_and_proves_nothing(name: str) -> None:
    """Each built-in provider can be translated without its settings, and its door stays shut."""
    provider = Translators({})[name]
    assert provider.name == name
    with pytest.raises(BadSignature):
        provider.verify({}, b"{}", 0)


def test_what_is_configured_stays_as_it_is() -> None:
    """The configured providers are the same objects, and names that nobody knows are poison."""
    translators = Translators(CONFIGURED)
    assert translators["replicate"] is CONFIGURED["replicate"]
    assert set(translators) == set(built_in()) - {"generic"}
    assert len(translators) == len(built_in()) - 1
    with pytest.raises(Poison):
        decode_event(webhook("nobody"), translators)
