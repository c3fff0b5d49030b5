"""`tidings serve`: the service."""

from pathlib import Path
from typing import Annotated

import typer

from tidings.commands import running


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[str | None, typer.Option(metavar="PORT", help="Port to listen on; 0: any.")] = None,
    port_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the port there once it is open.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(metavar="ROLES", help="all, or some of gateway,processor,archiver,reconciler.")
    ] = None,
    log: running.LogUrl = None,
    store: running.StoreUrl = None,
    config: running.Config = None,
    workers: Annotated[str | None, typer.Option(metavar="N", help="Gateway processes on one port (Kafka).")] = None,
) -> None:
    """Run the service: everything in one process, or the roles named.

    Ctrl-C finishes what is under way, tells clients when to come back, and ends.

    Example: tidings serve --port 8080 --log kafka://localhost:9092 --store sqlite:///data/store.db
    """
    settings = running.settings(
        config, host=host, port=port, port_file=port_file, role=role, log=log, store=store, workers=workers
    )
    from tidings import journal, service
    from tidings.settings import check_serving
    from tidings.webhook_key import with_webhook_key

    check_serving(settings)
    settings = with_webhook_key(settings)
    journal.configure()
    running.run(service.serve(settings))
