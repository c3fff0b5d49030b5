"""`tidings usage`: what predictions have used, as a table."""

import json
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tidings.cli.support import command, output, service_access
from tidings.config.settings import Settings

if TYPE_CHECKING:
    from tidings.client.usage import UsageRow

GROUPS = ("owner", "model", "provider", "day")

ABOUT = """Sum what predictions have used: tokens, seconds, images, and costs by currency.

The sums go over the records that the service keeps: what has expired or was deleted is not in
them. A prediction counts for the day (UTC) of its creation."""


def register(commands: command.Commands) -> None:
    """Add the command."""
    example = "tidings usage --by owner,day --from 2026-01-01 --to 2026-02-01"
    parser = command.parser(commands, "usage", run, ABOUT, example)
    parser.add_argument(
        "--by", default="", metavar="NAMES", help=f"a sum for each: {','.join(GROUPS)}"
    )
    parser.add_argument("--from", dest="since", metavar="TIME", help="created then or later")
    parser.add_argument("--to", dest="until", metavar="TIME", help="created before then")
    parser.add_argument("--owner", help="of this owner alone")
    parser.add_argument("--model", help="of this model alone")
    parser.add_argument("--provider", help="of this provider alone")
    service_access.add_flags(parser)
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> None:
    """Print the sums."""
    by = [one.strip() for one in arguments.by.split(",") if one.strip()]
    if odd := [one for one in by if one not in GROUPS]:
        raise command.Failure(f"--by: {odd[0]!r} is none of {', '.join(GROUPS)}", command.WRONG_USE)
    rows = command.run_loop(_sums(arguments, command.settings(arguments), by))
    if arguments.as_json:
        import msgspec

        for row in rows:
            found = msgspec.to_builtins(row)
            output.print_line(
                json.dumps({n: v for n, v in found.items() if n not in GROUPS or n in by})
            )
        return
    for line in _table(rows, by):
        output.print_line(line)


async def _sums(arguments: Namespace, settings: Settings, by: Sequence[str]) -> "list[UsageRow]":
    from tidings.client.client import Client
    from tidings.client.errors import ClientError

    url = arguments.url or service_access.url_of(settings)
    await service_access.check_reachable(url)
    since = command.parse_time("--from", arguments.since)
    until = command.parse_time("--to", arguments.until)
    filters = {name: getattr(arguments, name) for name in ("owner", "model", "provider")}
    try:
        client = Client(url, service_access.chosen_token(arguments, settings))
    except ValueError as error:
        raise command.Failure(f"--url: {error}", command.WRONG_USE) from None
    try:
        async with client:
            return await client.usage(by, since=since, until=until, **filters)
    except ClientError as error:
        raise command.Failure(str(error)) from None


def _table(rows: "Iterable[UsageRow]", by: Sequence[str]) -> Iterable[str]:
    """The sums in columns, names to the left and figures to the right."""
    heads = [*by, "predictions", "tokens in", "tokens out", "seconds", "images", "cost"]
    lines = [heads]
    for row in rows:
        names = [getattr(row, name) or "-" for name in by]
        figures = [f"{one:,}" for one in (row.predictions, row.input_tokens, row.output_tokens)]
        cost = ", ".join(f"{cost} {currency}" for currency, cost in row.costs.items())
        lines.append([*names, *figures, f"{row.seconds:,.2f}", f"{row.images:,}", cost or "-"])
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    for line in lines:
        yield "  ".join(
            text.ljust(width) if place < len(by) else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
