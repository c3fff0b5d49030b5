"""`tidings backup` and `tidings restore`: the embedded data as one file."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tidings.cli.support import command, consent, data, output

BACKUP = """Write log, store, assets and webhook key of the embedded service into one file.

The service may run meanwhile; the file holds everything acknowledged before the command began."""

RESTORE = """Put a backup's data where the settings say.

Nothing may be there yet, and the service must not run. It says what it would do, and asks; --yes
answers. What is in the backup's log and not yet in
its store is processed at the first start."""


def register(commands: command.Commands) -> None:
    """Add both commands."""
    for name, run, about in (("backup", run_backup, BACKUP), ("restore", run_restore, RESTORE)):
        parser = command.parser(commands, name, run, about, f"tidings {name} tidings-monday.tar")
        parser.add_argument("file", metavar="FILE", type=Path, help="the backup")
        command.add_places(parser)
        command.add_config(parser)
        command.add_json(parser)
        if name == "restore":
            consent.add_yes(parser)


def run_backup(arguments: Namespace) -> None:
    """Write a backup."""
    from importlib.metadata import version

    from tidings.admin.backup import make, places_of

    settings = command.settings(arguments, "log", "store")
    places = places_of(settings)
    data.require_log(settings)
    data.require_store(settings)
    made = make(places, arguments.file, version("tidings"))
    if arguments.as_json:
        output.print_line(msgspec.json.encode(made).decode())
    else:
        output.print_line(
            f"{made.file}: {made.bytes:,} bytes, {made.assets:,} files; it holds secrets, keep it "
            "safe"
        )


def run_restore(arguments: Namespace) -> None:
    """Restore from one."""
    from tidings.admin.backup import BadBackup, places_of, restore

    settings = command.settings(arguments, "log", "store")
    places = places_of(settings)
    if not arguments.file.is_file():
        raise command.Failure(
            f"no backup at {arguments.file}; name the file that tidings backup made"
        )
    consent.require_consent(
        arguments,
        f"unpack {arguments.file} ({arguments.file.stat().st_size:,} bytes) into {settings.data_folder}",
    )
    try:
        done = restore(places, arguments.file)
    except BadBackup as error:
        raise command.Failure(str(error)) from None
    if arguments.as_json:
        output.print_line(msgspec.json.encode(done).decode())
    else:
        moment = datetime.fromtimestamp(done.made_at / 1000, UTC)
        output.print_line(
            f"restored from {done.file}, made at {moment:%Y-%m-%d %H:%M:%S} UTC, {done.assets:,} "
            "files"
        )
