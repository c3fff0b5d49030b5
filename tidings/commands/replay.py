"""`tidings replay`: rebuild a store from the log, compare it with the log, or mend it."""

import asyncio
import json
import re
import signal
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidings.commands import running
from tidings.commands.progress import Bar
from tidings.settings import Settings

if TYPE_CHECKING:
    from storage.store import PredictionStore
    from streams.fold import Rules
    from streams.log import Log, NewRecord, Since
    from streams.replay import Progress, Rebuild, Span
    from streams.verification import Difference, Verification

ABOUT = """Rebuild a store from the log, compare it with the log, or mend it.

Into TIDINGS_STORE where nothing else is said; it must be empty. Nothing is announced by a rebuild.
--verify rebuilds aside and compares bytes; it exits with 1 where they differ. --repair appends one
event per difference, so that corrections pass the same rules and reach every client. --from-changes
takes whole records from the changes topic first, and then the events that follow: much less to read."""

IN_MEMORY = 200_000
"""Events up to which a comparison rebuilds in memory; beyond, in a temporary file."""
EXAMPLES = 10
"""Differences that are named one by one."""
REPAIRS_AT_ONCE = 500


def register(commands: running.Commands) -> None:
    """Add the command."""
    parser = running.parser(commands, "replay", run, ABOUT, "tidings replay --verify --json")
    parser.add_argument("--from", dest="since", metavar="WHERE", help="beginning, a TIME, or PARTITION:OFFSET,...")
    parser.add_argument(
        "--from-changes", action="store_true", help="take the newest records, then the events after them"
    )
    parser.add_argument("--until", metavar="TIME", help="ISO 8601 (2026-01-31T12:00Z), or ms since the epoch")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--into", metavar="STORE_URL", help="the store to fill; it must be empty")
    target.add_argument("--verify", action="store_true", help="compare TIDINGS_STORE with the log")
    target.add_argument("--repair", action="store_true", help="mend what differs, by events")
    parser.add_argument("--only", metavar="ID", help="this prediction alone")
    parser.add_argument("--dry-run", action="store_true", help="count, and write nothing")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted rebuild")
    running.add_config(parser)
    running.add_json(parser)


def run(arguments: Namespace) -> int:
    """Replay."""
    comparing = arguments.verify or arguments.repair
    for flag, given in (
        ("--from", arguments.since not in (None, "beginning")),
        ("--from-changes", arguments.from_changes),
        ("--until", arguments.until is not None),
        ("--follow", arguments.follow),
        ("--resume", arguments.resume),
    ):
        if comparing and given:
            raise running.Failure(f"{flag}: a comparison reads the whole log; leave it out", running.WRONG_USE)
    if arguments.dry_run and (arguments.follow or arguments.resume):
        raise running.Failure("--dry-run: goes with neither --follow nor --resume", running.WRONG_USE)
    if arguments.resume and arguments.since is not None:
        raise running.Failure("--resume: knows where to go on; leave out --from", running.WRONG_USE)
    for flag, given, reason in (
        ("--from", arguments.since is not None, "the changes say where the events go on"),
        ("--until", arguments.until is not None, "the changes are those of now"),
        (
            "--resume",
            arguments.resume,
            "goes on by the events; leave out --from-changes, or begin anew in an empty store",
        ),
    ):
        if arguments.from_changes and given:
            raise running.Failure(f"{flag}: {reason}", running.WRONG_USE)
    since, until = parse_since(arguments.since), parse_time("--until", arguments.until)
    settings = running.settings(arguments)
    if settings.log.startswith("memory://"):
        raise running.Failure("TIDINGS_LOG: memory:// holds nothing to replay", running.WRONG_USE)
    if arguments.into is not None:
        from tidings.setting_values import store_url

        try:
            store_url(arguments.into)
        except ValueError as error:
            raise running.Failure(f"--into: {error}", running.WRONG_USE) from None
    if comparing:
        return running.run_loop(_compare(arguments, settings))
    return running.run_loop(_rebuild(arguments, settings, since, until))


def parse_time(flag: str, text: str | None) -> int | None:
    """Milliseconds since the epoch, from ISO 8601 (without a zone: UTC) or as they are."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise running.Failure(
            f"{flag}: {text!r} is no time; say 2026-01-31T12:00Z, or milliseconds since the epoch", running.WRONG_USE
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def parse_since(text: str | None) -> "Since | int":
    """Where to begin: `beginning`, offsets by partition, or a time in ms."""
    if text is None or text == "beginning":
        return "beginning"
    if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text, re.ASCII):
        pairs = (part.split(":") for part in text.split(","))
        return {int(partition): int(offset) for partition, offset in pairs}
    moment = parse_time("--from", text)
    assert moment is not None
    return moment


async def _span(log: "Log", since: "Since | int", until: int | None) -> "Span":
    from streams.log import EVENTS
    from streams.replay import span

    if isinstance(since, int):
        since = await log.offsets_at(EVENTS, since)
    elif isinstance(since, Mapping):
        missing = set(since) - set(await log.bounds(EVENTS))
        if missing:
            raise running.Failure(f"--from: the events have no partition {min(missing)}", running.WRONG_USE)
    return await span(log, since, until)


# ---- rebuilding ----


async def _rebuild(arguments: Namespace, settings: Settings, since: "Since | int", until: int | None) -> int:
    from storage.factory import open_store
    from tidings.parts import claim, log_of, store_of

    log = await log_of(settings)
    try:
        if arguments.dry_run:
            store = await open_store("memory://")
        else:
            store = await store_of(settings, arguments.into)
        try:
            rules = await claim(log, store, settings)
            return await _fill(arguments, settings, log, store, rules, since, until)
        finally:
            await store.close()
    finally:
        await log.close()


async def _fill(
    arguments: Namespace,
    settings: Settings,
    log: "Log",
    store: "PredictionStore",
    rules: "Rules",
    since: "Since | int",
    until: int | None,
) -> int:
    stopped = asyncio.Event()
    whole = since == "beginning" and until is None and arguments.only is None
    with Bar("replay", "events", quiet=arguments.as_json) as bar:
        rebuild = rebuilder(settings, log, store, rules, arguments.only, bar)
        if arguments.resume:
            since = await rebuild.resume_point()
            rebuild.progress.resumed = bool(since)
        else:
            await rebuild.require_empty()
            if arguments.from_changes:
                since = await _restore(arguments, settings, log, store, rules, rebuild)
        await rebuild.run(await _span(log, since, until))
        if arguments.follow:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, stopped.set)
            try:
                await rebuild.follow(stopped)
            finally:
                loop.remove_signal_handler(signal.SIGINT)
        if whole and (mark_filled := getattr(store, "mark_filled", None)) is not None:
            await mark_filled()
        summary = counts(rebuild.progress, bar.seconds)
    into = arguments.into or settings.shown("store")
    if arguments.as_json:
        running.say(
            json.dumps({"into": None if arguments.dry_run else shown(into), "dryRun": arguments.dry_run, **summary})
        )
    else:
        table("dry run: nothing was written" if arguments.dry_run else f"replayed into {shown(into)}", summary)
    return running.DONE


async def _restore(
    arguments: Namespace,
    settings: Settings,
    log: "Log",
    store: "PredictionStore",
    rules: "Rules",
    rebuild: "Rebuild",
) -> "Since":
    from streams.processor import GROUP
    from streams.restore import Restoration
    from tidings.parts import expiry_of

    restoration = Restoration(
        log,
        store,
        rules.log,
        rebuild.progress,
        expiry=expiry_of(settings),
        only=arguments.only,
        notice=rebuild.notice,
    )
    return await restoration.run(GROUP)


def shown(url: str) -> str:
    """A store's URL without its password."""
    from tidings.setting_values import masked_url

    return masked_url(url)


def rebuilder(
    settings: Settings, log: "Log", store: "PredictionStore", rules: "Rules", only: str | None, bar: Bar
) -> "Rebuild":
    """A rebuild into the store, which tells the bar how far it is."""
    from streams.providers.registry import Translators
    from streams.replay import Rebuild
    from tidings.parts import expiry_of, providers_of

    return Rebuild(
        log,
        store,
        Translators(providers_of(settings)),
        rules,
        expiry=expiry_of(settings),
        only=only,
        notice=lambda progress: bar.update(progress.done, progress.total),
    )


def counts(progress: "Progress", seconds: float) -> dict[str, Any]:
    """What a rebuild counted."""
    names = ("read", "applied", "stale", "rejected", "poison", "predictions", "resumed")
    found = {name: getattr(progress, name) for name in names}
    rate = round(progress.done / seconds) if seconds > 0 else 0
    if progress.changes:
        restored = {"changes": progress.changes, "restored": progress.restored}
        return {**restored, **found, "seconds": round(seconds, 3), "recordsPerSecond": rate}
    return {**found, "seconds": round(seconds, 3), "eventsPerSecond": rate}


def table(title: str, values: Mapping[str, Any]) -> None:
    """A summary: a name and a value a line."""
    running.say(title)
    width = max(len(name) for name in values)
    for name, value in values.items():
        running.say(
            f"  {name:<{width}}  {value:,}" if isinstance(value, int | float) else f"  {name:<{width}}  {value}"
        )


# ---- comparing and mending ----


async def _compare(arguments: Namespace, settings: Settings) -> int:
    from streams.processor import GROUP
    from streams.verification import verify
    from tidings.parts import claim, log_of, store_of

    log = await log_of(settings)
    try:
        live = await store_of(settings)
        try:
            rules = await claim(log, live, settings)
            what = await _span(log, "beginning", None)
            with Bar("verify", "events", quiet=arguments.as_json) as bar:
                async with _scratch(what) as scratch:
                    rebuild = rebuilder(settings, log, scratch, rules, arguments.only, bar)
                    await rebuild.run(what)
                    found = await verify(rebuild, scratch, live, log, group=GROUP)
                    found.differences = [d for d in found.differences if arguments.only in (None, d.prediction_id)]
                    repairs = [repair(difference, found.upto) for difference in found.faults]
                seconds = bar.seconds
            if arguments.repair and not arguments.dry_run:
                await _append(log, repairs)
            _report(arguments, found, rebuild.progress, seconds)
        finally:
            await live.close()
    finally:
        await log.close()
    if arguments.repair and not arguments.dry_run:
        return running.DONE
    return running.FAILED if found.faults else running.DONE


@asynccontextmanager
async def _scratch(what: "Span") -> "AsyncIterator[PredictionStore]":
    """A store to rebuild into that is gone afterwards."""
    from storage.factory import open_store

    with tempfile.TemporaryDirectory(prefix="tidings-verify-") as folder:
        url = "memory://" if what.total <= IN_MEMORY else f"sqlite:///{Path(folder) / 'scratch.db'}"
        store = await open_store(url)
        try:
            yield store
        finally:
            await store.close()


def repair(difference: "Difference", upto: Mapping[int, int]) -> "NewRecord":
    """The event that makes the live record what the log says, at a version of its own."""
    import msgspec

    from streams.log import NewRecord

    rebuilt, live = difference.rebuilt, difference.live
    gone = rebuilt is None or rebuilt.deleted
    event = {
        "type": "repair",
        "predictionId": difference.prediction_id,
        "replace": None if rebuilt is None or gone else msgspec.Raw(rebuilt.encoded),
        "version": (live.version if live is not None else 0) + 1,
        "upto": {str(partition): offset for partition, offset in upto.items()},
        "source": "replay",
    }
    return NewRecord(difference.prediction_id.encode(), msgspec.json.encode(event))


async def _append(log: "Log", repairs: "list[NewRecord]") -> None:
    from streams.log import EVENTS

    for first in range(0, len(repairs), REPAIRS_AT_ONCE):
        await log.append(EVENTS, repairs[first : first + REPAIRS_AT_ONCE])


def _report(arguments: Namespace, found: "Verification", progress: "Progress", seconds: float) -> None:
    repaired = len(found.faults) if arguments.repair and not arguments.dry_run else 0
    summary = {
        "compared": found.compared,
        "equal": found.equal,
        "hidden": found.hidden,
        **dict(sorted(found.by_kind().items())),
        "faults": len(found.faults),
        **({"repaired": repaired} if arguments.repair else {}),
        "events": progress.read,
        "seconds": round(seconds, 3),
    }
    examples = [example(difference) for difference in found.differences[:EXAMPLES]]
    if arguments.as_json:
        named: dict[str, list[str]] = {}
        for difference in found.differences:
            named.setdefault(difference.kind, []).append(difference.prediction_id)
        running.say(json.dumps({**summary, "examples": examples, "predictions": named}))
        return
    title = "the store says what the log says"
    if found.faults:
        title = "the store differs from the log"
    elif found.differences:
        title = "no faults: what differs is explained by its kind"
    table(title, summary)
    for one in examples:
        live, rebuilt = one["liveVersion"], one["rebuiltVersion"]
        running.say(f"  {one['kind']}: {one['predictionId']} (store: version {live}, log: version {rebuilt})")
    if len(found.differences) > EXAMPLES:
        running.say(f"  ... and {len(found.differences) - EXAMPLES:,} more; --json names all")
    if found.faults and not arguments.repair:
        running.say("tidings replay --repair mends the faults while the service runs")


def example(difference: "Difference") -> dict[str, Any]:
    """A difference in a few words."""
    live, rebuilt = difference.live, difference.rebuilt
    return {
        "predictionId": difference.prediction_id,
        "kind": difference.kind,
        "liveVersion": live.version if live is not None else None,
        "rebuiltVersion": rebuilt.version if rebuilt is not None else None,
    }
