"""`tidings erase`: deletes everything of one owner, and says when each trace of it is gone."""

import time
from argparse import Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from tidings.cli.support import command, consent, data, output

if TYPE_CHECKING:
    from tidings.admin.erasure import Erasure
    from tidings.config.settings import Settings

ABOUT = """Delete every prediction of an owner, and say when each trace of it is gone.

The service carries it out, so it must run; clients see the deletions. Hidden predictions are found
as well. It says how many there are, and asks; --yes answers. It ends with 1 if not all are gone from the store in time: run it again."""


def register(commands: command.Commands) -> None:
    """Add the command."""
    parser = command.parser(
        commands, "erase", run, ABOUT, "tidings erase --owner user-4711 --dry-run"
    )
    parser.add_argument("--owner", metavar="OWNER", required=True, help="whose predictions")
    parser.add_argument("--dry-run", action="store_true", help="count, and delete nothing")
    consent.add_yes(parser)
    parser.add_argument(
        "--within", metavar="SECONDS", type=float, default=30.0, help="to wait for the service (30)"
    )
    command.add_places(parser)
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> int:
    """Erase."""
    if not arguments.owner:
        raise command.Failure("--owner: is empty; name whose predictions", command.WRONG_USE)
    if not arguments.within > 0:
        raise command.Failure("--within: takes seconds, more than 0", command.WRONG_USE)
    settings = command.settings(arguments, "log", "store")
    command.refuse_memory(settings)
    data.require_log(settings)
    data.require_store(settings)
    done = command.run_loop(_erase(settings, arguments))
    if arguments.as_json:
        output.print_line(
            msgspec.json.encode({**msgspec.to_builtins(done), "dryRun": arguments.dry_run}).decode()
        )
    else:
        _print(done, dry_run=arguments.dry_run)
    return command.DONE if arguments.dry_run or done.complete else command.FAILED


async def _erase(settings: "Settings", arguments: Namespace) -> "Erasure":
    from tidings.admin.erasure import (
        Erasure,
        count_dead_letters,
        count_deliveries,
        erase,
        find,
        traces,
    )
    from tidings.runtime.resources import log_of, whole_store_of

    log = await log_of(settings, create=False)
    try:
        store = await whole_store_of(settings)
        try:
            ids = await find(log, store, arguments.owner)
            letters = await count_dead_letters(log, ids)
            told = await count_deliveries(log, ids) if settings.notify_secret else None
            if not arguments.dry_run and ids:
                consent.require_consent(
                    arguments,
                    f"delete {len(ids):,} predictions of {arguments.owner} for good, for every client",
                )
            deleted = 0 if arguments.dry_run else await erase(log, store, ids, arguments.within)
        finally:
            await store.close()
    finally:
        await log.close()
    now = time.time_ns() // 1_000_000
    left = traces(
        len(ids),
        letters,
        now,
        retention=settings.retention * 1000,
        cache_ttl=settings.cache_ttl,
        deliveries=told,
    )
    return Erasure(arguments.owner, len(ids), deleted, left)


def _print(done: "Erasure", *, dry_run: bool) -> None:
    if dry_run:
        output.print_line(f"{done.predictions:,} predictions of {done.owner} would be deleted")
        return
    output.print_line(
        f"{done.deleted:,} of {done.predictions:,} predictions of {done.owner} are deleted"
    )
    if not done.complete:
        output.print_line(
            "the others wait in the log for a processor: is the service running? Run this again to "
            "see"
        )
    for trace in done.traces:
        by = (
            ""
            if trace.by is None
            else f", by {datetime.fromtimestamp(trace.by / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        )
        output.print_line(f"{trace.count:>7,}  {trace.place}: {trace.gone}{by}")
