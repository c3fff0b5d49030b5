"""Addresses of archived files, as clients are given them."""

import msgspec

from tests.support.client.scripted_service import record
from tidings.client.answers import absolute
from tidings.storage.prediction import decode


def test_archived_files_have_whole_addresses() -> None:
    """Below a prefix, too, a picture is found from anywhere; what lies elsewhere is left as it is."""
    fields = {
        "imageUrl": "/assets/a/0",
        "assets": [{"url": "/assets/a/0", "bytes": 3}, {"url": "https://cdn.example/b"}],
    }
    plain = decode(msgspec.json.encode({**record("p1", 1), **fields}))
    whole = absolute(plain, "https://app.example/predictions")
    assert whole.image_url == "https://app.example/predictions/assets/a/0"
    assert whole.value("assets") == [
        {"url": "https://app.example/predictions/assets/a/0", "bytes": 3},
        {"url": "https://cdn.example/b"},
    ]
    elsewhere = decode(msgspec.json.encode({**record("p1", 1), "imageUrl": "https://x.example/a"}))
    assert absolute(elsewhere, "https://app.example") is elsewhere
