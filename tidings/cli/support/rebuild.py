"""Filling an empty store from the log."""

import asyncio
import json
import signal
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tidings.cli.support import command, output
from tidings.cli.support.progress import ProgressBar
from tidings.config.settings import Settings

if TYPE_CHECKING:
    from tidings.storage.store import PredictionStore
    from tidings.streams.log.protocol import Log, Since
    from tidings.streams.replay.judgement import Letters
    from tidings.streams.replay.rebuild import Progress, Rebuild, Span
    from tidings.streams.rules.reducer import StorePolicy


async def span_of(log: "Log", since: "Since | int", until: int | None) -> "Span":
    """What is read: from offsets or a time (ms) on, to the log's end or to a time.

    Raises:
        Failure: There is no such partition.
    """
    from tidings.streams.log.protocol import EVENTS
    from tidings.streams.replay.rebuild import span

    if isinstance(since, int):
        since = await log.offsets_at(EVENTS, since)
    elif isinstance(since, Mapping):
        missing = set(since) - set(await log.bounds(EVENTS))
        if missing:
            raise command.Failure(
                f"--from: the events have no partition {min(missing)}", command.WRONG_USE
            )
    return await span(log, since, until)


async def rebuild(
    arguments: Namespace, settings: Settings, since: "Since | int", until: int | None
) -> int:
    """Fill an empty store, or go on with one that was interrupted; returns the exit code."""
    from tidings.runtime.resources import claim, log_of, store_of, whole_store_of
    from tidings.storage.factory import open_store

    log = await log_of(settings, create=False)
    try:
        if arguments.dry_run:
            store = await open_store("memory://")
        elif arguments.into is not None:
            store = await store_of(settings, arguments.into)
        else:
            store = await whole_store_of(settings)
        try:
            policy = await claim(log, store, settings, into=arguments.into)
            return await _fill(arguments, settings, log, store, policy, since, until)
        finally:
            await store.close()
    finally:
        await log.close()


async def _fill(
    arguments: Namespace,
    settings: Settings,
    log: "Log",
    store: "PredictionStore",
    policy: "StorePolicy",
    since: "Since | int",
    until: int | None,
) -> int:
    from tidings.observability import gc_tuning
    from tidings.streams.replay.judgement import read_letters

    gc_tuning.freeze_startup_objects()
    stopped = asyncio.Event()
    whole = since == "beginning" and until is None and arguments.only is None
    letters = await read_letters(log)
    with ProgressBar("replay", "events", quiet=arguments.as_json) as bar:
        rebuild = rebuilder(settings, log, store, policy, arguments.only, bar, letters)
        if arguments.resume:
            since = await rebuild.resume_point()
            rebuild.progress.resumed = bool(since)
        else:
            await rebuild.require_empty()
            if arguments.from_changes:
                since = await _restore(arguments, settings, log, store, policy, rebuild)
        await rebuild.run(await span_of(log, since, until))
        if arguments.follow:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, stopped.set)
            try:
                await rebuild.follow(stopped)
            finally:
                loop.remove_signal_handler(signal.SIGINT)
        if whole:
            await store.mark_filled()
        summary = counts(rebuild.progress, bar.seconds)
    into = None if arguments.dry_run else _filled(arguments.into, settings)
    if arguments.as_json:
        output.print_line(json.dumps({"into": into, "dryRun": arguments.dry_run, **summary}))
    else:
        output.print_table(
            "dry run: nothing was written" if into is None else f"replayed into {into}", summary
        )
    return command.DONE


async def _restore(
    arguments: Namespace,
    settings: Settings,
    log: "Log",
    store: "PredictionStore",
    policy: "StorePolicy",
    rebuild: "Rebuild",
) -> "Since":
    from tidings.runtime.resources import expiry_of
    from tidings.streams.processing.processor import GROUP
    from tidings.streams.replay.from_changes import Restoration

    restoration = Restoration(
        log,
        store,
        policy.log,
        rebuild.progress,
        expiry=expiry_of(settings),
        only=arguments.only,
        notice=rebuild.notice,
    )
    return await restoration.run(GROUP)


def _filled(into: str | None, settings: Settings) -> str:
    """What the store, or the two of them, are called."""
    arm = settings.split_arm
    if into is not None or arm is None:
        return shown(into or settings.store)
    return f"{shown(settings.store)} and {shown(arm[0])}"


def shown(url: str) -> str:
    """A store's URL without its password."""
    from tidings.config.validators import masked_url

    return masked_url(url)


def rebuilder(
    settings: Settings,
    log: "Log",
    store: "PredictionStore",
    policy: "StorePolicy",
    only: str | None,
    bar: ProgressBar,
    letters: "Letters",
) -> "Rebuild":
    """A rebuild into the store, which tells the bar how far it is."""
    from tidings.runtime.resources import expiry_of, providers_of
    from tidings.streams.providers.registry import Translators
    from tidings.streams.replay.rebuild import Rebuild

    return Rebuild(
        log,
        store,
        Translators(providers_of(settings)),
        policy,
        expiry=expiry_of(settings),
        only=only,
        letters=letters,
        notice=lambda progress: bar.update(progress.done, progress.total),
    )


def counts(progress: "Progress", seconds: float) -> dict[str, Any]:
    """What a rebuild counted."""
    names = ("read", "applied", "stale", "rejected", "poison", "predictions", "resumed")
    found = {name: getattr(progress, name) for name in names}
    rate = round(progress.done / seconds) if seconds > 0 else 0
    if progress.crashed:
        found["crashed"] = progress.crashed
    if progress.changes:
        restored = {"changes": progress.changes, "restored": progress.restored}
        return {**restored, **found, "seconds": round(seconds, 3), "recordsPerSecond": rate}
    return {**found, "seconds": round(seconds, 3), "eventsPerSecond": rate}
