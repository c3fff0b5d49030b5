"""`tidings export`: the predictions of a running service, as lines of JSON or as a table."""

import csv
import json
from argparse import Namespace
from typing import IO, Any

import msgspec
from msgspec import Raw

from tidings.cli.records import listing
from tidings.cli.support import command, output, service_access
from tidings.cli.support.progress import ProgressBar
from tidings.config.settings import Settings

COLUMNS = (
    "predictionId",
    "kind",
    "status",
    "version",
    "createdAt",
    "updatedAt",
    "provider",
    "model",
    "owner",
    "tags",
    "prompt",
    "error",
    "errorCode",
    "imageUrl",
    "output",
    "text",
    "progress",
    "generationTime",
    "usage",
    "retryOf",
    "retriedAs",
    "group",
    "index",
)
"""Of the table."""

ABOUT = """Write out predictions of a running service, newest first.

A line is a record as the service holds it. With --csv the fields that fit a table are its columns; a
value that a spreadsheet would take for a formula gets an apostrophe before it. A page at a time is
in memory, however many there are."""


def register(commands: command.Commands) -> None:
    """Add the command."""
    example = "tidings export --owner user-4711 --status failed --out failed.ndjson"
    parser = command.parser(commands, "export", run, ABOUT, example)
    listing.add_filters(parser)
    parser.add_argument("--out", metavar="FILE", default="-", help="a new file; -: standard output")
    parser.add_argument(
        "--csv", action="store_true", help="comma-separated, the names in the first line"
    )
    service_access.add_flags(parser)
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> None:
    """Export."""
    filters = listing.filters_of(arguments)
    settings = command.settings(arguments)
    try:
        with output.opened(arguments.out) as out:
            count = command.run_loop(_export(arguments, settings, filters, out))
    except output.FileThere as error:
        raise command.Failure(f"--out: {error}", command.WRONG_USE) from None
    if arguments.out != "-":
        said = json.dumps({"exported": count, "file": arguments.out})
        output.print_line(
            said if arguments.as_json else f"{count:,} predictions written to {arguments.out}"
        )


async def _export(
    arguments: Namespace, settings: Settings, filters: dict[str, str | None], out: IO[str]
) -> int:
    from tidings.client.client import Client
    from tidings.client.errors import ClientError

    url = arguments.url or service_access.url_of(settings)
    await service_access.check_reachable(url)
    try:
        client = Client(url, service_access.chosen_token(arguments, settings))
    except ValueError as error:
        raise command.Failure(f"--url: {error}", command.WRONG_USE) from None
    table = _Table(out) if arguments.csv else None
    count = 0
    try:
        async with client:
            with ProgressBar("Exporting", "predictions", quiet=arguments.as_json) as bar:
                total = await client.count(**filters)
                async for lines in client.export_lines(**filters):
                    for line in lines:
                        if table is None:
                            output.write_line(out, line.decode())
                        else:
                            table.write(line)
                    count += len(lines)
                    bar.update(count, None if total is None else max(total, count))
    except ClientError as error:
        raise command.Failure(str(error)) from None
    return count


_members = msgspec.json.Decoder(dict[str, Raw])


class _Table:
    """Records as rows."""

    def __init__(self, out: IO[str]) -> None:
        self._rows = csv.writer(out)
        self._rows.writerow(COLUMNS)

    def write(self, line: bytes) -> None:
        """Write a record's row."""
        members = _members.decode(line)
        self._rows.writerow([output.cell(_value(members.get(name))) for name in COLUMNS])


def _value(member: Raw | None) -> Any:
    """A cell's value: texts as they are, all else as its JSON."""
    if member is None:
        return ""
    found = bytes(member)
    return msgspec.json.decode(found) if found.startswith(b'"') else found.decode()
