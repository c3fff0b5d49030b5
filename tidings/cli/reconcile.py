"""`tidings reconcile`: look up at their providers what has been silent for too long, once."""

from argparse import Namespace
from typing import TYPE_CHECKING

from tidings.cli.support import command, data, output

if TYPE_CHECKING:
    from tidings.config.settings import Settings

ABOUT = """Look up overdue predictions at their providers, once.

What they say is appended to the log as events, beside a running service or without one. Orders that
nobody submitted are submitted, cancels carried out, submissions without an answer looked for; a
prediction that its provider no longer knows has failed."""


def register(commands: command.Commands) -> None:
    """Add the command."""
    parser = command.parser(commands, "reconcile", run, ABOUT, "tidings reconcile --once --all")
    parser.add_argument(
        "--once", action="store_true", help="one pass (what a service does all the time)"
    )
    parser.add_argument(
        "--all",
        dest="everything",
        action="store_true",
        help="whatever is unfinished, overdue or not",
    )
    parser.add_argument(
        "--limit", metavar="SECONDS", type=float, default=300.0, help="give up after so long (300)"
    )
    command.add_places(parser)
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> int:
    """Reconcile, and say what came of it."""
    if not arguments.once:
        raise command.Failure(
            "reconcile makes one pass with --once; tidings serve --role reconciler goes on",
            command.WRONG_USE,
        )
    if not arguments.limit > 0:
        raise command.Failure("--limit: takes seconds, more than 0", command.WRONG_USE)
    settings = command.settings(arguments, "log", "store")
    data.require_log(settings)
    data.require_store(settings)
    return command.run_loop(_reconcile(settings, arguments))


async def _reconcile(settings: "Settings", arguments: Namespace) -> int:
    import asyncio

    import msgspec

    from tidings.config.webhook_key import with_webhook_key
    from tidings.runtime.reconciler_role import ProviderWork
    from tidings.runtime.resources import open_resources

    settings = with_webhook_key(settings)
    async with open_resources(settings) as opened:
        tasks = ProviderWork(settings, opened, settings.port)
        if not tasks.throttles:
            raise command.Failure(
                "no provider can be asked: set its token, such as TIDINGS_REPLICATE_TOKEN"
            )
        try:
            async with asyncio.timeout(arguments.limit):
                found = await tasks.once(everything=arguments.everything)
        except TimeoutError:
            raise command.Failure(
                f"not done after {arguments.limit:g} s; is a processor running? raise --limit, or "
                "run it again"
            ) from None
        finally:
            await tasks.close()
    if arguments.as_json:
        output.print_line(msgspec.json.encode(found).decode())
    else:
        output.print_line(", ".join(f"{count} {name}" for name, count in found.items()))
    return command.FAILED if found["left"] else command.DONE
