"""A server is taken where it says that it keeps what it is given.

What is missing is named with its remedy.
"""

from typing import Any

import pytest

from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.redis.address import parse
from tidings.storage.redis.examination import refuse_careless

GOOD = {"role": "master", "maxmemory_policy": "noeviction", "aof_enabled": 1}


async def examined(url: str, information: dict[str, Any], **settings: str) -> StorageError | None:
    async def configured(name: str) -> str | None:
        return settings.get(name.replace("-", "_"))

    try:
        await refuse_careless(parse(url), information, configured)
    except StorageError as error:
        return error
    return None


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD, **more}.items() if name not in names}


@pytest.mark.parametrize(
    ("url", "information", "settings"),
    [
        ("redis://h", GOOD, {}),
        ("redis://h", without("role"), {}),
        ("redis://h", without("maxmemory_policy"), {"maxmemory_policy": "noeviction"}),
        ("redis://h?eviction=never", without("maxmemory_policy"), {}),
        ("redis://h?durability=everysec", without("aof_enabled"), {}),
        # Dragonfly
        ("redis://h?durability=everysec", {"role": "master", "cache_mode": "store"}, {}),
    ],
)
async def test_taken(url: str, information: dict[str, Any], settings: dict[str, str]) -> None:
    """Fields that are missing are asked for otherwise, or vouched for by the operator."""
    assert await examined(url, information, **settings) is None


@pytest.mark.parametrize(
    ("url", "information", "settings", "message"),
    [
        ("redis://h", without(maxmemory_policy="allkeys-lru"), {}, "maxmemory-policy allkeys-lru"),
        ("redis://h?eviction=never", without(maxmemory_policy="allkeys-lru"), {}, "allkeys-lru"),
        ("redis://h", without("maxmemory_policy"), {}, r"\?eviction=never"),
        (
            "redis://h",
            without("maxmemory_policy"),
            {"maxmemory_policy": "volatile-ttl"},
            "volatile-ttl",
        ),
        ("redis://h", {"cache_mode": "cache"}, {}, "cache_mode"),
        (
            "redis://h",
            without(aof_enabled=0),
            {},
            r"keeps no append-only file.*\?durability=everysec",
        ),
        ("redis://h", without("aof_enabled"), {}, r"does not say.*\?durability=everysec"),
    ],
)
async def test_refused(
    url: str, information: dict[str, Any], settings: dict[str, str], message: str
) -> None:
    """What would lose records is refused by a line with the remedy."""
    error = await examined(url, information, **settings)
    assert isinstance(error, StoreMisconfigured)
    with pytest.raises(StoreMisconfigured, match=message):
        raise error


async def test_a_replica_is_no_store() -> None:
    """Writes would be refused later: the start says which server to name."""
    error = await examined("redis://h", without(role="slave"))
    assert isinstance(error, StoreUnavailable)
    assert "name the primary" in str(error)
