"""`tidings serve`: the service."""

from argparse import Namespace
from pathlib import Path

from tidings.commands import running

ABOUT = """Run the service: everything in one process, or the roles named.

Ctrl-C finishes what is under way, tells clients when to come back, and ends."""


def register(commands: running.Commands) -> None:
    """Add the command."""
    example = "tidings serve --port 8080 --log kafka://localhost:9092 --store sqlite:///data/store.db"
    parser = running.parser(commands, "serve", run, ABOUT, example)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", help="port to listen on; 0: any")
    parser.add_argument("--port-file", metavar="FILE", type=Path, help="write the port there once it is open")
    parser.add_argument("--role", metavar="ROLES", help="all, or some of gateway,processor,archiver,reconciler")
    running.add_places(parser)
    running.add_config(parser)
    parser.add_argument(
        "--no-breaker", action="store_const", const=True, help="go on processing although nearly everything is poison"
    )
    parser.add_argument("--workers", metavar="N", help="gateway processes on one port (where the log is Kafka)")


def run(arguments: Namespace) -> None:
    """Serve until told to stop."""
    names = ("host", "port", "port_file", "role", "log", "store", "workers", "no_breaker")
    settings = running.settings(arguments, *names)
    from tidings.settings import check_serving

    check_serving(settings)
    from tidings import journal, service
    from tidings.webhook_key import with_webhook_key

    settings = with_webhook_key(settings)
    journal.configure()
    running.run_loop(service.serve(settings))
