"""Whether a server keeps what it is given, as far as it says so.

Redis 6.2 to 8, Valkey, and others that speak alike.

The start of the service and `tidings doctor` ask the same, because a store is opened by this alone.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.redis.address import RedisAddress

Configured = Callable[[str], Awaitable[str | None]]
"""What `CONFIG GET` says; None if the server does not tell (hosters forbid it)."""

EVERYSEC = "add ?durability=everysec to the URL, with which a crash may lose the last second"


def is_primary(information: Mapping[str, Any]) -> bool:
    """Whether INFO says that the server takes writes; if it says nothing, it does."""
    return str(information.get("role", "master")) in {"master", "primary"}


async def refuse_careless(
    address: RedisAddress, information: Mapping[str, Any], configured: Configured
) -> None:
    """Raise if the server is a replica, may drop records, or keeps no file of what was written.

    Args:
        address: Of the store.
        information: What INFO says. Dragonfly and hosters leave fields out.
        configured: Asks for a setting.
    """
    shown = address.shown
    if not is_primary(information):
        raise StoreUnavailable(
            f"{shown} is a replica, which takes no writes; name the primary by an address that moves with it"
        )
    policy = information.get("maxmemory_policy")
    if policy is None and "cache_mode" in information:  # Dragonfly
        policy = "noeviction" if information["cache_mode"] == "store" else "cache_mode"
    if policy is None:
        policy = await configured("maxmemory-policy")
    if policy is None and not address.keeps:
        raise StoreMisconfigured(
            f"{shown} does not say whether it drops records when memory is short (no maxmemory_policy in INFO, and no"
            " CONFIG GET); if it never does, add ?eviction=never to the URL"
        )
    if policy is not None and policy != "noeviction":
        raise StoreMisconfigured(
            f"{shown} would drop records when memory is short (maxmemory-policy {policy}); set maxmemory-policy"
            " noeviction"
        )
    if address.durable and not information.get("aof_enabled"):
        fact = (
            "keeps no append-only file"
            if "aof_enabled" in information
            else "does not say that it keeps an append-only file"
        )
        raise StoreMisconfigured(
            f"{shown} {fact}, so a write is not on the disk when it is answered; set appendonly yes (best with"
            f" appendfsync always), or {EVERYSEC}"
        )


def without_waitaof(address: RedisAddress) -> StoreMisconfigured:
    """The refusal of a server that cannot tell when a write is on its disk."""
    return StoreMisconfigured(
        f"{address.shown} has no WAITAOF (Redis 7.2 and Valkey have it), so nobody knows when a write is on the disk;"
        f" set appendfsync always, or {EVERYSEC}"
    )
