"""The provider in the guide works as it stands there."""

import hashlib
import hmac
import re
from typing import Any

import pytest

from tests.support.providers.bodies import NOW, webhook
from tests.support.reference import provider_names
from tests.support.root import ROOT
from tidings.storage.prediction import Status
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import BadSignature
from tidings.streams.rules.event import Poison

GUIDE = ROOT / "docs" / "howto" / "providers.md"


def guide() -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, Any] = {"__name__": "acme_tidings"}
    exec(compile(blocks[0], "providers.md", "exec"), names)
    return names


def test_the_provider_of_the_guide() -> None:
    """It proves, understands and refuses as its text says."""
    opening = guide()["open_acme"]
    assert opening("acme", Configuration()) is None
    acme = opening("acme", Configuration(secret=("s",)))
    body = b'{"id":"p","state":"done","result":["https://e.com/a.png"]}'
    headers = {"x-acme-signature": hmac.new(b"s", body, hashlib.sha256).hexdigest()}
    acme.verify(headers, body, NOW)
    for odd in (
        {},
        {"x-acme-signature": "\ud800"},
        {"x-acme-signature": headers["x-acme-signature"].upper()},
    ):
        with pytest.raises(BadSignature):
            acme.verify(odd, body, NOW)
    assert acme.prediction_id(body) == "p"
    assert acme.prediction_id(b"x") is None
    event = acme.translate(webhook(body))
    assert (event.status, event.image_url, event.provider) == (
        Status.SUCCEEDED,
        "https://e.com/a.png",
        "acme",
    )
    with pytest.raises(Poison):
        acme.translate(webhook(b'{"id":"p","state":"odd"}'))


def test_the_guide_lists_every_provider_as_its_manifest_says() -> None:
    """The table of the page is made of the manifests, so a new provider is in it by itself."""
    text = provider_names.PAGE.read_text(encoding="utf-8")
    assert text == provider_names.page(text)
