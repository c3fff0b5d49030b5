"""`tidings worker export`: the Worker that shows stores at Cloudflare over HTTP, as files to deploy."""

import shutil
from argparse import Namespace
from importlib.resources import as_file, files
from pathlib import Path

from tidings.cli.support import command, output


def register(commands: command.Commands) -> None:
    """Add the command."""
    about = "The Worker for durable-objects:// and cloudflare-kv+worker://."
    actions = command.group(commands, "worker", about, "tidings worker export worker")
    example = "tidings worker export worker"
    parser = command.parser(actions, "export", run, "Write the Worker's files.", example)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder that is not there yet")


def run(arguments: Namespace) -> None:
    """Write the Worker's files into a new folder.

    Raises:
        Failure: The folder is there already; what is in it may be somebody's changes.
    """
    folder: Path = arguments.folder
    if folder.exists():
        raise command.Failure(f"{folder} is there already; name a new folder, or remove it")
    with as_file(files("tidings.storage.cloudflare") / "worker") as source:
        shutil.copytree(source, folder)
    output.print_text(
        f"{folder}: now `npx wrangler deploy` there; docs/howto/cloudflare.md says more"
    )
