"""`tidings list`: the newest predictions of a running service, filtered, as a table."""

from argparse import SUPPRESS, Namespace
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice

from tidings.cli.support import command, output, service_access
from tidings.config.settings import Settings
from tidings.storage.prediction import Prediction, encode

FILTERS = ("status", "owner", "model", "tag", "provider", "error", "text", "kind")
"""Those that are words."""
COLUMNS = ("created", "status", "id", "provider", "model", "owner", "prompt or error")
WIDEST = 60
"""Characters of a prompt or an error in the table."""

ABOUT = """List predictions of a running service, newest first.

--error finds a code, or words of the error; --search finds words of the prompt or the id. Prompts
over 32 KiB are kept apart, and are not searched."""


def add_filters(parser: command.Parser) -> None:
    """Add the filters that lists and exports have."""
    parser.add_argument("--status", help="those with this status alone")
    parser.add_argument("--owner", help="of this owner alone")
    parser.add_argument("--model", help="of this model alone")
    parser.add_argument("--tag", help="with this tag alone")
    parser.add_argument("--provider", help="of this provider alone")
    parser.add_argument(
        "--error", metavar="WORDS", help="with this error code, or words in the error"
    )
    parser.add_argument(
        "--search", dest="text", metavar="WORDS", help="with these words in id or prompt"
    )
    parser.add_argument("--text", help=SUPPRESS)  # its name in versions before
    parser.add_argument(
        "--from",
        dest="since",
        metavar="TIME",
        help="created then or later: 2026-01-31T12:00Z, or ms",
    )
    parser.add_argument("--until", metavar="TIME", help="created before then")
    parser.add_argument(
        "--groups", dest="kind", action="store_const", const="group", help="groups, not predictions"
    )


def filters_of(arguments: Namespace) -> dict[str, str | None]:
    """The filters as a client takes them. Raises `Failure` for an empty one."""
    for name in FILTERS:
        if getattr(arguments, name) == "":
            raise command.Failure(
                f"--{name}: is empty; name one, or leave it out", command.WRONG_USE
            )
    filters: dict[str, str | None] = {name: getattr(arguments, name) for name in FILTERS}
    for name, flag, given in (
        ("createdAfter", "--from", arguments.since),
        ("createdBefore", "--until", arguments.until),
    ):
        moment = command.parse_time(flag, given)
        filters[name] = None if moment is None else str(moment)
    return filters


def register(commands: command.Commands) -> None:
    """Add the command."""
    example = "tidings list --provider replicate --error nsfw --search heron"
    parser = command.parser(commands, "list", run, ABOUT, example)
    add_filters(parser)
    parser.add_argument("--limit", type=int, default=50, help="at most so many (50)")
    service_access.add_flags(parser)
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> None:
    """List."""
    if arguments.limit < 1:
        raise command.Failure("--limit: is at least 1", command.WRONG_USE)
    filters = filters_of(arguments)
    found = command.run_loop(_newest(arguments, command.settings(arguments), filters))
    if arguments.as_json:
        for record in found:
            output.print_line(encode(record).decode())
        return
    for line in _table(found):
        output.print_line(line)


async def _newest(
    arguments: Namespace, settings: Settings, filters: dict[str, str | None]
) -> list[Prediction]:
    from tidings.client.client import Client
    from tidings.client.errors import ClientError

    url = arguments.url or service_access.url_of(settings)
    await service_access.check_reachable(url)
    try:
        client = Client(url, service_access.chosen_token(arguments, settings))
    except ValueError as error:
        raise command.Failure(f"--url: {error}", command.WRONG_USE) from None
    found: list[Prediction] = []
    try:
        async with client:
            async for record in client.export(**filters):
                found.append(record)
                if len(found) == arguments.limit:
                    break
    except ClientError as error:
        raise command.Failure(str(error)) from None
    return found


def _table(records: Iterable[Prediction]) -> Iterable[str]:
    lines = [COLUMNS, *(_row(record) for record in records)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    for line in lines:
        yield "  ".join(
            text.ljust(width) for text, width in zip(line, widths, strict=True)
        ).rstrip()


def _row(record: Prediction) -> tuple[str, ...]:
    created = datetime.fromtimestamp(record.created_at / 1000, UTC)
    told = record.error if isinstance(record.error, str) else record.prompt
    text = told if isinstance(told, str) else ""
    return (
        f"{created:%Y-%m-%d %H:%M:%S}",
        record.status.value,
        record.prediction_id,
        record.provider or "-",
        record.model or "-",
        record.owner or "-",
        " ".join("".join(islice(text, 4 * WIDEST)).split())[:WIDEST] or "-",
    )
