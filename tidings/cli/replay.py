"""`tidings replay`: rebuild a store from the log, compare it with the log, or fix it."""

import re
from argparse import Namespace
from typing import TYPE_CHECKING

from tidings.cli.support import command, consent, data
from tidings.cli.support.comparison import compare
from tidings.cli.support.rebuild import rebuild

if TYPE_CHECKING:
    from tidings.streams.log.protocol import Since

ABOUT = """Rebuild a store from the log, compare it with the log, or fix it.

It fills TIDINGS_STORE, or the store that --into names, which must be empty. A rebuild announces
nothing.

--verify rebuilds aside and compares bytes; it exits with 1 if they differ.

--repair appends one event per difference, so that corrections pass the same rules and reach every
client. On a terminal it says how many there are, and asks.

--from-changes takes whole records from the changes topic first, then the events that follow. There
is much less to read."""


def register(commands: command.Commands) -> None:
    """Add the command."""
    parser = command.parser(commands, "replay", run, ABOUT, "tidings replay --verify --json")
    parser.add_argument(
        "--from", dest="since", metavar="WHERE", help="beginning, a TIME, or PARTITION:OFFSET,..."
    )
    parser.add_argument(
        "--from-changes",
        action="store_true",
        help="take the newest records, then the events after them",
    )
    parser.add_argument(
        "--until", metavar="TIME", help="ISO 8601 (2026-01-31T12:00Z), or ms since the epoch"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--into", metavar="STORE_URL", help="the store to fill; it must be empty")
    target.add_argument("--verify", action="store_true", help="compare TIDINGS_STORE with the log")
    target.add_argument("--repair", action="store_true", help="fix what differs, by events")
    parser.add_argument(
        "--notify",
        action="store_true",
        help="with --repair: tell other servers of the steps that it brings",
    )
    parser.add_argument("--only", metavar="ID", help="this prediction alone")
    parser.add_argument("--dry-run", action="store_true", help="count, and write nothing")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted rebuild")
    consent.add_yes(parser)
    command.add_config(parser)
    command.add_json(parser)


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
            raise command.Failure(
                f"{flag}: a comparison reads the whole log; leave it out", command.WRONG_USE
            )
    if arguments.notify and not arguments.repair:
        raise command.Failure("--notify: goes with --repair alone", command.WRONG_USE)
    if arguments.dry_run and (arguments.follow or arguments.resume):
        raise command.Failure(
            "--dry-run: goes with neither --follow nor --resume", command.WRONG_USE
        )
    if arguments.resume and arguments.since is not None:
        raise command.Failure("--resume: knows where to go on; leave out --from", command.WRONG_USE)
    for flag, given, reason in (
        ("--from", arguments.since is not None, "the changes say where the events go on"),
        ("--until", arguments.until is not None, "the changes are those of now"),
        (
            "--resume",
            arguments.resume,
            "goes on by the events; leave out --from-changes, or start over in an empty store",
        ),
    ):
        if arguments.from_changes and given:
            raise command.Failure(f"{flag}: {reason}", command.WRONG_USE)
    since, until = parse_since(arguments.since), command.parse_time("--until", arguments.until)
    settings = command.settings(arguments)
    if settings.log.startswith("memory://"):
        raise command.Failure("TIDINGS_LOG: memory:// holds nothing to replay", command.WRONG_USE)
    if arguments.into is not None:
        from tidings.config.validators import store_url

        try:
            store_url(arguments.into)
        except ValueError as error:
            raise command.Failure(f"--into: {error}", command.WRONG_USE) from None
    data.require_log(settings)
    if comparing:
        data.require_store(settings)
        return command.run_loop(compare(arguments, settings))
    return command.run_loop(rebuild(arguments, settings, since, until))


def parse_since(text: str | None) -> "Since | int":
    """Where to begin: `beginning`, offsets by partition, or a time in ms."""
    if text is None or text == "beginning":
        return "beginning"
    if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text, re.ASCII):
        pairs = (part.split(":") for part in text.split(","))
        return {int(partition): int(offset) for partition, offset in pairs}
    moment = command.parse_time("--from", text)
    assert moment is not None
    return moment
