"""`tidings serve`: the service."""

import os
import sys
from argparse import SUPPRESS, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tidings.cli.support import command, output

if TYPE_CHECKING:
    from tidings.config.settings import Settings

ABOUT = """Run the service: everything in one process, or the roles named.

Ctrl-C finishes what is under way, tells clients when to come back, and ends."""


def register(commands: command.Commands) -> None:
    """Add the command."""
    example = (
        "tidings serve --port 8080 --log kafka://localhost:9092 --store sqlite:///data/store.db"
    )
    parser = command.parser(commands, "serve", run, ABOUT, example)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", help="port to listen on; 0: any")
    parser.add_argument(
        "--port-file", metavar="FILE", type=Path, help="write the port there once it is open"
    )
    parser.add_argument(
        "--role",
        metavar="ROLES",
        help="all, or some of gateway,processor,archiver,reconciler,notifier",
    )
    command.add_places(parser)
    command.add_config(parser)
    parser.add_argument(
        "--no-breaker",
        action="store_const",
        const=True,
        help="go on processing although nearly everything is poison",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        help="gateway processes on one port, or processors (if the log is Kafka)",
    )
    parser.add_argument(
        "--health-port",
        metavar="PORT",
        help="health and metrics on a port of their own as well; 0: any",
    )
    parser.add_argument("--shared-port", action="store_const", const=True, help=SUPPRESS)
    parser.add_argument("--parent", help=SUPPRESS)
    parser.add_argument("--worker", help=SUPPRESS)


def run(arguments: Namespace) -> None:
    """Serve until told to stop."""
    command.import_plain_structlog()
    names = ("host", "port", "port_file", "role", "log", "store", "workers", "no_breaker")
    settings = command.settings(arguments, *names, "health_port", "shared_port", "parent")
    from tidings.config.checks import check_serving, short_secrets
    from tidings.config.settings import WEBHOOK_SECRET

    check_serving(settings)
    import structlog

    logger = structlog.get_logger(__name__)
    from tidings.config.webhook_key import with_webhook_key
    from tidings.observability import logging as service_logging
    from tidings.runtime import limits, service
    from tidings.runtime.resources import data_open_to_others, unshared_store

    settings = with_webhook_key(settings)
    output.hide([settings.webhook_key or ""])
    own = {} if arguments.worker is None else {"worker": arguments.worker, "pid": os.getpid()}
    service_logging.configure(redactor=output.redactor(), always=own)
    limits.raise_open_files()
    if (doubt := unshared_store(settings)) is not None and settings.parent is None:
        logger.warning("store.unshared", warning=doubt)
    for place in data_open_to_others(settings) if settings.parent is None else ():
        logger.warning("data.readable_by_others", path=str(place), remedy=f"chmod go= {place}")
    for setting in short_secrets(settings) if settings.parent is None else ():
        logger.warning("secret.short", setting=setting, least_bytes=WEBHOOK_SECRET)
    if settings.workers > 1:
        _supervise(settings, arguments)
    else:
        command.run_loop(service.serve(settings, settled=partial(_say_where, settings)))


def _say_where(settings: "Settings", port: int) -> None:
    """Tell a person at a terminal where to look, below everything else that the start has said."""
    if settings.parent is not None or "gateway" not in settings.roles or not sys.stderr.isatty():
        return
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - reached so
    output.print_note(f"The page is at http://{host}:{port} (Ctrl-C ends it)")


def _supervise(settings: "Settings", arguments: Namespace) -> None:
    """Start the workers, and look after them."""
    from tidings.gateway.websocket.listener import listen
    from tidings.runtime.process.ports import write_port
    from tidings.runtime.process.supervisor import WorkerEnded, supervise

    given = [("--host", arguments.host), ("--log", arguments.log), ("--store", arguments.store)]
    given.append(("--config", arguments.config))
    flags = [part for flag, value in given if value is not None for part in (flag, str(value))]
    flags += ["--no-breaker"] if settings.no_breaker else []
    if settings.port:
        # Once the port is shared nobody is refused: that somebody else has it is found out before.
        listen(settings.host, settings.port).close()
    # Bound but not listened on: the port is ours before a worker starts, and no connection comes
    # here.
    with listen(settings.host, settings.port, reuse_port=True) as held:

        def ready(port: int) -> None:
            if settings.port_file is not None:
                write_port(settings.port_file, port)
            _say_where(settings, port)

        try:
            command.run_loop(supervise(settings, held.getsockname()[1], flags, ready))
        except WorkerEnded as error:
            raise command.Failure(
                str(error), error.code if error.code > 0 else command.FAILED
            ) from None
        except TimeoutError:
            raise command.Failure(
                "a process did not serve in time; its own lines say what it waits for"
            ) from None
        finally:
            if settings.port_file is not None:
                settings.port_file.unlink(missing_ok=True)
