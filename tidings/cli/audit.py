"""`tidings audit`: what happened to every prediction, as a list."""

import csv
import json
from argparse import Namespace
from typing import IO, TYPE_CHECKING

from tidings.cli.support import command, data, output
from tidings.config.settings import Settings

if TYPE_CHECKING:
    from tidings.admin.audit import AuditTrail

ABOUT = """Write out the audit trail, a line for each step of each prediction, by time.

Steps come from the store, hidden predictions included; deletions, erasures, repairs and redrives
from the log, as far back as it goes. Without --csv each line is a JSON object. With it a value that
a spreadsheet would take for a formula gets an apostrophe before it. The service may run."""


def register(commands: command.Commands) -> None:
    """Add the command and its subcommand."""
    example = "tidings audit export --from 2026-01-31 --owner user-4711 --out trail.jsonl"
    about = "Write out what happened to every prediction."
    actions = command.group(commands, "audit", about, example)
    export = command.parser(actions, "export", run_export, ABOUT, example)
    export.add_argument(
        "--from", dest="since", metavar="TIME", help="2026-01-31T12:00Z, or ms since the epoch"
    )
    export.add_argument("--until", metavar="TIME", help="leave out what happened from then on")
    export.add_argument("--owner", metavar="OWNER", help="of this owner's predictions alone")
    export.add_argument("--only", metavar="ID", help="of this prediction alone")
    export.add_argument("--out", metavar="FILE", default="-", help="a new file; -: standard output")
    export.add_argument(
        "--csv", action="store_true", help="comma-separated, the names in the first line"
    )
    command.add_places(export)
    command.add_config(export)
    command.add_json(export)


def run_export(arguments: Namespace) -> None:
    """`export`."""
    since, until = (
        command.parse_time("--from", arguments.since),
        command.parse_time("--until", arguments.until),
    )
    if since is not None and until is not None and since >= until:
        raise command.Failure(
            "--until: is not after --from; nothing lies between", command.WRONG_USE
        )
    for flag, value in (("--owner", arguments.owner), ("--only", arguments.only)):
        if value == "":
            raise command.Failure(f"{flag}: is empty; name one, or leave it out", command.WRONG_USE)
    settings = command.settings(arguments, "log", "store")
    command.refuse_memory(settings)
    data.require_log(settings)
    data.require_store(settings)
    from tidings.admin.audit import AuditFilter, AuditTrail

    wanted = AuditFilter(since=since, until=until, owner=arguments.owner, only=arguments.only)
    try:
        with output.opened(arguments.out) as out, AuditTrail(wanted) as trail:
            command.run_loop(_collect(settings, trail))
            count = _write(trail, out, as_csv=arguments.csv)
    except output.FileThere as error:
        raise command.Failure(f"--out: {error}", command.WRONG_USE) from None
    if arguments.out != "-":
        said = json.dumps({"exported": count, "file": arguments.out})
        output.print_line(
            said if arguments.as_json else f"{count:,} lines written to {arguments.out}"
        )


async def _collect(settings: Settings, trail: "AuditTrail") -> None:
    from tidings.admin.audit import collect
    from tidings.runtime.resources import log_of, providers_of, whole_store_of
    from tidings.streams.providers.registry import Translators

    log = await log_of(settings, create=False)
    try:
        store = await whole_store_of(settings)
        try:
            await collect(log, store, Translators(providers_of(settings)), trail)
        finally:
            await store.close()
    finally:
        await log.close()


def _write(trail: "AuditTrail", out: IO[str], *, as_csv: bool) -> int:
    from tidings.admin.audit import COLUMNS

    count = 0
    table = csv.DictWriter(out, COLUMNS) if as_csv else None
    if table is not None:
        table.writeheader()
    for count, line in enumerate(trail.lines(), 1):  # noqa: B007 - how many there were
        if table is not None:
            table.writerow({name: output.cell(value) for name, value in json.loads(line).items()})
        else:
            output.write_line(out, line.decode())
    return count
