"""The stand-in provider by itself: `python -m tidings.demo`.

Its token and the secret of its webhooks are `TIDINGS_REPLICATE_TOKEN` and
`TIDINGS_REPLICATE_SECRET`, as Tidings has them.
"""

import asyncio
import os
import signal
import sys
from argparse import ArgumentParser, Namespace

from tidings.demo.stand_in import StandIn


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = ArgumentParser(
        prog="python -m tidings.demo", description="A provider that makes real pictures."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=9000, help="port to listen on")
    parser.add_argument("--url", help="by which others reach it; else by address and port")
    parser.add_argument(
        "--duration", type=float, default=4.0, help="seconds that a prediction takes"
    )
    asyncio.run(_serve(parser.parse_args()))


async def _serve(arguments: Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stand_in = StandIn(
        duration=arguments.duration,
        secret=os.environ.get("TIDINGS_REPLICATE_SECRET"),
        token=os.environ.get("TIDINGS_REPLICATE_TOKEN"),
    )
    try:
        await stand_in.start(arguments.host, arguments.port)
    except OSError as error:
        sys.exit(
            f"{arguments.host}:{arguments.port} cannot be listened on: {error.strerror}; name "
            "another --port"
        )
    stand_in.url = arguments.url or stand_in.url
    try:
        await stop.wait()
    finally:
        await stand_in.close()


if __name__ == "__main__":
    main()
