"""`tidings audit`: what happened to every prediction, as a list."""

import contextlib
import csv
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tidings.cli.support import command, output
from tidings.config.settings import Settings

if TYPE_CHECKING:
    from tidings.admin.audit import Trail

ABOUT = """Write out the audit trail, a line for each step of each prediction, by time.

Steps come from the store, hidden predictions included; deletions, erasures, repairs and redrives
from the log, as far back as it goes. Without --csv each line is a JSON object. The service may run."""


def register(commands: command.Commands) -> None:
    """Add the command and its subcommand."""
    parser = commands.add_parser("audit", help="Write out what happened to every prediction.")
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=command.Parser
    )
    example = "tidings audit export --from 2026-01-31 --owner user-4711 --out trail.jsonl"
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
    from tidings.admin.audit import Trail, Wanted

    wanted = Wanted(since=since, until=until, owner=arguments.owner, only=arguments.only)
    with _output(arguments.out) as out, Trail(wanted) as trail:
        command.run_loop(_collect(settings, trail))
        count = _write(trail, out, as_csv=arguments.csv)
    if arguments.out != "-":
        said = json.dumps({"exported": count, "file": arguments.out})
        output.print_line(
            said if arguments.as_json else f"{count:,} lines written to {arguments.out}"
        )


@contextlib.contextmanager
def _output(file: str) -> Iterator[IO[str]]:
    """Where the lines go; a file that did not become whole is removed again."""
    if file == "-":
        yield sys.stdout
        return
    try:
        out = Path(file).open("x", encoding="utf-8", newline="")  # noqa: SIM115 - closed below
    except FileExistsError:
        raise command.Failure(
            f"--out: {file} is there already; name a new file", command.WRONG_USE
        ) from None
    try:
        with out:
            yield out
    except BaseException:
        Path(file).unlink(missing_ok=True)
        raise


async def _collect(settings: Settings, trail: "Trail") -> None:
    from tidings.admin.audit import collect
    from tidings.runtime.resources import log_of, providers_of, whole_store_of
    from tidings.streams.providers.registry import Translators

    log = await log_of(settings)
    try:
        store = await whole_store_of(settings)
        try:
            await collect(log, store, Translators(providers_of(settings)), trail)
        finally:
            await store.close()
    finally:
        await log.close()


def _write(trail: "Trail", out: IO[str], *, as_csv: bool) -> int:
    from tidings.admin.audit import COLUMNS

    count = 0
    table = csv.DictWriter(out, COLUMNS) if as_csv else None
    if table is not None:
        table.writeheader()
    for count, line in enumerate(trail.lines(), 1):  # noqa: B007 - how many there were
        if table is not None:
            table.writerow(json.loads(line))
        else:
            out.write(line.decode() + "\n")
    return count
