"""Comparing a store with the log, and fixing it by events."""

import asyncio
import json
import tempfile
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidings.cli.support import command, consent, output
from tidings.cli.support.progress import ProgressBar
from tidings.cli.support.rebuild import rebuilder, span_of
from tidings.config.settings import Settings

if TYPE_CHECKING:
    from tidings.storage.object_storage import ObjectStorage
    from tidings.storage.store import PredictionStore, Stored
    from tidings.streams.log.protocol import Log, NewRecord
    from tidings.streams.replay.rebuild import Progress, Span
    from tidings.streams.replay.verify import Difference, Verification

IN_MEMORY = 200_000
"""Events up to which a comparison rebuilds in memory; beyond, in a temporary file."""
EXAMPLES = 10
"""Differences that are named one by one."""
REPAIRS_AT_ONCE = 500
"""Repairs appended before the processor is waited for."""
LOOK_SECONDS, PATIENCE = 0.05, 10.0
"""Seconds between two looks at the processor, and until one that stands still is given up."""


async def compare(arguments: Namespace, settings: Settings) -> int:
    """Compare the store with the log, and fix it if that is asked for.

    Returns the exit code.
    """
    from tidings.runtime.resources import claim, log_of, whole_store_of
    from tidings.storage.object_storage import ObjectStorage
    from tidings.streams.log.continuity import check_source
    from tidings.streams.processing.processor import GROUP
    from tidings.streams.replay.judgement import read_letters
    from tidings.streams.replay.verify import verify

    command.refuse_memory(settings)
    log = await log_of(settings, create=False)
    try:
        live = await whole_store_of(settings)
        try:
            policy = await claim(log, live, settings)
            what = await span_of(log, "beginning", None)
            with ProgressBar("verify", "events", quiet=arguments.as_json) as bar:
                letters = await read_letters(log)
                async with _scratch(what) as scratch:
                    rebuild = rebuilder(
                        settings, log, scratch, policy, arguments.only, bar, letters
                    )
                    await rebuild.run(what)
                    found = await verify(
                        rebuild, scratch, live, log, group=GROUP, only=arguments.only
                    )
                    await _find_contents(found, ObjectStorage(settings.assets))
                    repairs, refused = plan(found, notify=arguments.notify)
                seconds = bar.seconds
            # It may have been recreated while all of it was read.
            await check_source(log, live)
            if arguments.repair and not arguments.dry_run:
                if repairs:
                    consent.require_consent(
                        arguments,
                        f"change {len(repairs):,} records to what the log says, for every client",
                        scripted=True,
                    )
                await _append(log, repairs)
            _report(arguments, found, rebuild.progress, seconds, refused)
        finally:
            await live.close()
    finally:
        await log.close()
    if found.undecided or (arguments.repair and refused):
        return command.UNDECIDED
    if arguments.repair and not arguments.dry_run:
        return command.DONE
    return command.FAILED if found.faults else command.DONE


@asynccontextmanager
async def _scratch(what: "Span") -> "AsyncIterator[PredictionStore]":
    """A store to rebuild into that is gone afterwards."""
    from tidings.storage.factory import open_store

    with tempfile.TemporaryDirectory(prefix="tidings-verify-") as folder:
        url = "memory://" if what.total <= IN_MEMORY else f"sqlite:///{Path(folder) / 'scratch.db'}"
        store = await open_store(url)
        try:
            yield store
        finally:
            await store.close()


def plan(
    found: "Verification", *, notify: bool = False
) -> "tuple[list[NewRecord], list[Difference]]":
    """The events that fix what differs, and the differences that no repair fixes now.

    Args:
        found: By the comparison.
        notify: Tell other servers of the steps that the repairs bring.
    """
    from tidings.streams.replay.verify import ends_otherwise, grows

    # The processor cannot read what it would have to judge the repair by.
    left = [one for one in found.faults if one.unreadable or ends_otherwise(one) or grows(one)]
    repairs = [repair(one, found.upto, notify=notify) for one in found.faults if one not in left]
    return repairs, left


async def _find_contents(found: "Verification", objects: "ObjectStorage") -> None:
    """Leave alone what a repair would make refer to contents that are not there."""
    from msgspec.structs import replace

    from tidings.storage.prediction import Prediction
    from tidings.streams.rules.large_fields import path, references

    for index, difference in enumerate(found.differences):
        rebuilt = difference.rebuilt
        if difference not in found.faults or rebuilt is None or rebuilt.deleted:
            continue
        record = rebuilt.standing()
        assert isinstance(record, Prediction)
        known = difference.live.encoded if difference.live is not None else b""
        for name in references(record):
            if name.encode() in known:
                continue
            if await objects.find(path(record.prediction_id, name)) is None:
                found.unjudged[record.prediction_id] = f"the content {name} is not there"
                found.differences[index] = replace(difference, kind="unjudged")
                break


def repair(
    difference: "Difference", upto: Mapping[int, int], *, notify: bool = False
) -> "NewRecord":
    """The event that makes the live record what the log says.

    Its version is above both: if the store has lost writes, the log's was announced, and clients
    have it.
    """
    import msgspec

    from tidings.streams.log.protocol import NewRecord
    from tidings.streams.replay.verify import partition_of

    rebuilt, live = difference.rebuilt, difference.live
    gone = rebuilt is None or rebuilt.deleted
    versions = [stored.version for stored in (live, rebuilt) if stored is not None]
    version = max(versions, default=0) + 1
    event = {
        "type": "repair",
        "predictionId": difference.prediction_id,
        "replace": None
        if rebuilt is None or gone
        else msgspec.Raw(_with_epoch(rebuilt, live, version)),
        "version": version,
        "upto": {str(partition): offset for partition, offset in upto.items()},
        "source": "replay",
    } | ({"notify": True} if notify else {})
    return NewRecord(
        difference.prediction_id.encode(),
        msgspec.json.encode(event),
        partition=partition_of(difference),
    )


def _with_epoch(rebuilt: "Stored", live: "Stored | None", version: int) -> bytes:
    """The record as rebuilt; if its text does not go on from what readers have, it says so."""
    from msgspec.structs import replace

    from tidings.storage.prediction import Prediction, encode
    from tidings.streams.rules.text import begins_with, text_of

    wanted = rebuilt.standing()
    shown = live.standing() if live is not None else None
    if not isinstance(wanted, Prediction) or not isinstance(shown, Prediction):
        return rebuilt.encoded
    if begins_with(text_of(wanted), text_of(shown)):
        return rebuilt.encoded
    return encode(replace(wanted, text_epoch=version))


async def _append(log: "Log", repairs: "list[NewRecord]") -> None:
    """Append them, a few at a time.

    What is reported meanwhile waits behind these few, and not behind all of them.
    """
    from tidings.streams.log.protocol import EVENTS

    waiting = True
    for first in range(0, len(repairs), REPAIRS_AT_ONCE):
        positions = await log.append(EVENTS, repairs[first : first + REPAIRS_AT_ONCE])
        upto = {position.partition: position.offset + 1 for position in positions}
        if waiting and first + REPAIRS_AT_ONCE < len(repairs):
            waiting = await _processed(log, upto)


async def _processed(log: "Log", upto: Mapping[int, int]) -> bool:
    """Wait until the processor has come so far; False if it does not move: it may be stopped."""
    from tidings.streams.log.protocol import EVENTS
    from tidings.streams.processing.processor import GROUP

    seen: dict[int, int] = {}
    moved = time.monotonic()
    while time.monotonic() - moved < PATIENCE:
        committed = await log.committed(EVENTS, GROUP)
        if all(committed.get(partition, 0) >= offset for partition, offset in upto.items()):
            return True
        if committed != seen:
            seen, moved = committed, time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)
    return False


def _report(
    arguments: Namespace,
    found: "Verification",
    progress: "Progress",
    seconds: float,
    refused: "list[Difference]",
) -> None:
    repaired = len(found.faults) - len(refused) if arguments.repair and not arguments.dry_run else 0
    summary = {
        "compared": found.compared,
        "equal": found.equal,
        "hidden": found.hidden,
        **dict(sorted(found.by_kind().items())),
        "faults": len(found.faults),
        **({"repaired": repaired} if arguments.repair else {}),
        **({"refused": len(refused)} if arguments.repair and refused else {}),
        **({"crashed": progress.crashed} if progress.crashed else {}),
        **({"unreadable": len(found.unjudged)} if found.unjudged else {}),
        "events": progress.read,
        "seconds": round(seconds, 3),
    }
    examples = [example(difference) for difference in found.differences[:EXAMPLES]]
    if arguments.as_json:
        named: dict[str, list[str]] = {}
        for difference in found.differences:
            named.setdefault(difference.kind, []).append(difference.prediction_id)
        unread = {"unreadable": dict(found.unjudged)} if found.unjudged else {}
        line = {**summary, "examples": examples, "predictions": named, **unread}
        output.print_line(json.dumps(line))
        return
    title = "the store says what the log says"
    if found.faults:
        title = "the store differs from the log"
    elif found.differences:
        title = "no faults: what differs is explained by its kind"
    output.print_table(title, summary)
    for one in examples:
        live, rebuilt = one["liveVersion"], one["rebuiltVersion"]
        what = f"version {live}" + (", which is no record" if one.get("unreadable") else "")
        output.print_line(
            f"  {one['kind']}: {one['predictionId']} (store: {what}; log: version {rebuilt})"
        )
    if len(found.differences) > EXAMPLES:
        output.print_line(f"  ... and {len(found.differences) - EXAMPLES:,} more; --json names all")
    for prediction_id, reason in list(found.unjudged.items())[:EXAMPLES]:
        output.print_line(f"  cannot be judged here: {prediction_id or 'any prediction'}: {reason}")
    for difference in refused[:EXAMPLES] if arguments.repair else ():
        reason = "has ended, and the log says otherwise"
        if difference.unreadable:
            reason = "is no record; remove its row from the store, and repair again"
        elif difference.live is not None and difference.live.status == "processing":
            reason = "its text is growing; repair it once it has ended"
        output.print_line(f"  left as it is: {difference.prediction_id}: {reason}")
    if found.faults and not arguments.repair:
        output.print_line("tidings replay --repair fixes the faults while the service runs")


def example(difference: "Difference") -> dict[str, Any]:
    """A difference in a few words."""
    live, rebuilt = difference.live, difference.rebuilt
    unreadable = {"unreadable": True} if difference.unreadable else {}
    return unreadable | {
        "predictionId": difference.prediction_id,
        "kind": difference.kind,
        "liveVersion": live.version if live is not None else None,
        "rebuiltVersion": rebuilt.version if rebuilt is not None else None,
    }
