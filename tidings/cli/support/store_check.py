"""What `tidings doctor` finds out about a store, whatever kind it is, and what to do about it."""

import asyncio
import os
from pathlib import Path
from typing import Any

from tidings.config.settings import Settings, sqlite_path

SKEW = 1000
"""Ms by which two clocks may differ before records are hidden noticeably early or late."""

LOG_SECONDS = 4.0
"""To open the log in, whose id the store is compared with."""

UNCLAIMED = "none yet"
"""What a store says of its ownership before its first use."""


class Warned(Exception):
    """The part works, but something about it should be looked at."""


def new_file(url: str) -> str | None:
    """What to say of a SQLite file that is not there yet; None: it is.

    Raises OSError if it could not be made.
    """
    path = sqlite_path(url)
    if path.exists():
        return None
    writable(path.parent)
    return f"{path} will be made at the first start"


def writable(folder: Path) -> None:
    """Raise PermissionError if a folder, or the nearest one above, cannot be written."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{folder}: {there} is no folder; choose another place")
    if not os.access(there, os.W_OK):
        raise PermissionError(
            f"{folder}: no right to write in {there}; give it, or choose another folder"
        )


async def examined(settings: Settings, url: str) -> str:
    """Open the store at this URL with the settings' credentials, read from it, and ask whose it is.

    Nothing is written into a store that nobody has used.

    Raises:
        StorageError, SettingsError, LogError, OSError: It cannot be used; the message says what to
            do.
        Warned: It can, but something should be looked at.
    """
    from tidings.runtime.resources import store_of
    from tidings.storage.store import Query

    if url.startswith("memory://"):
        return "in memory: gone when the service ends"
    if url.startswith("sqlite://") and (says := new_file(url)) is not None:
        return says
    store = await store_of(settings, url)
    try:
        facts = await store.facts()
        positions = await store.positions()
        used = facts.pop("ownership", UNCLAIMED) != UNCLAIMED or bool(positions)
        if store.capabilities.lists and store.capabilities.compare_and_set:
            used |= bool((await store.list(Query(limit=1))).items)
        if used:
            facts["log"] = await _owner(settings, store, url)
        facts["records"] = f"up to {_ranges(positions)}" if used else "none yet"
        says = f"{store.name}: " + "; ".join(f"{name} {value}" for name, value in facts.items())
        if trouble := _trouble(facts):
            raise Warned(f"{says}. {trouble}")
        return says
    finally:
        await store.close()


def _ranges(positions: dict[int, int]) -> str:
    return (
        ", ".join(f"{partition}:{offset}" for partition, offset in sorted(positions.items()))
        or "no log's position"
    )


async def _owner(settings: Settings, store: Any, url: str) -> str:
    """Whose log the store belongs to; raises StoreOwned if it is not the one of the settings."""
    from tidings.runtime.resources import claim, claim_to_serve
    from tidings.storage.store import Ownership
    from tidings.streams.log.protocol import LogError

    log = None
    try:
        # Well within the time that the store itself has: the log's own line says what is wrong there.
        async with asyncio.timeout(LOG_SECONDS):
            log = await _opened_log(settings)
        if log is not None:
            of_the_service = url == settings.store
            policy = await (claim_to_serve if of_the_service else claim)(log, store, settings)
            return f"{policy.log}, the one of these settings"
    except (LogError, TimeoutError) as error:
        # The log says so in its own line; the store is judged by what it says itself.
        note = f"not compared, the log does not answer ({type(error).__name__})"
    else:
        note = "not compared, the log is not there yet"
    finally:
        if log is not None:
            await log.close()
    standing = await store.claim(Ownership(log=None))
    return f"{standing.log or 'none: programs write it without a log'}, {note}"


async def _opened_log(settings: Settings) -> Any:
    from tidings.runtime.resources import log_of

    if settings.log.startswith("memory://"):
        return None
    if settings.log.startswith("sqlite://") and not sqlite_path(settings.log).exists():
        return None
    return await log_of(settings, create=False)


def _trouble(facts: dict[str, str]) -> str:
    """What should be looked at, with the remedy."""
    found = []
    skew = facts.get("clock skew (ms)")
    if skew is not None and abs(int(skew)) > SKEW:
        found.append(
            f"The clocks differ by {skew} ms: synchronize them (NTP), or records are hidden early "
            "or late"
        )
    if facts.get("read-only", "no") != "no":
        found.append(f"It is read-only: {facts['read-only']}")
    durability = facts.get("durability", "")
    if "fsync off" in durability or "may lose" in durability or "may take" in durability:
        found.append("A crash may lose what was acknowledged: turn its durability on")
    return "; ".join(found)
