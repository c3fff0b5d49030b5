"""`tidings demo`: the service with a provider of its own, so that something moves at once."""

import asyncio
import contextlib
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidings.cli.support import command, output

if TYPE_CHECKING:
    import httpx


ABOUT = """Run everything on loopback, with a stand-in provider that makes real pictures.

It signs its webhooks as Replicate does. A few predictions start at once; as long as somebody looks
at the page, more follow: pictures, and texts as they are written. Its data lies in data/demo."""

PROMPTS: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("a lighthouse in a storm, oil on canvas", 5.0, {}),
    ("a fox reading a newspaper", 9.0, {}),
    ("a city made of glass at dawn", 14.0, {}),
    ("a map of an island that does not exist", 20.0, {}),
    ("a picture that is too large for its graphics card", 7.0, {"fail": "CUDA out of memory."}),
)
"""What is started: prompt, seconds that it takes, and more of the input."""

WRITER = "tidings-demo/writer"
QUESTION = "How does a lighthouse work?"
WRITING = 16.0
"""Seconds that an answer takes which grows beside the pictures."""

APART = 0.7
"""Seconds between two predictions."""
MODEL = "tidings-demo/pictures"
PLACES = {
    "log": "sqlite:///data/demo/log.db",
    "store": "sqlite:///data/demo/store.db",
    "assets": "file:///data/demo/assets",
}
"""Where the demonstration keeps its data, unless it is told otherwise: apart from a real one's."""
WATCHED_EVERY = 15.0
"""Seconds between two predictions for as long as somebody watches."""
MORE: tuple[tuple[str, float], ...] = (
    ("two herons and a bicycle, woodcut", 8.0),
    ("the last tram of the night, in the rain", 11.0),
    ("an orchard on the far side of the moon", 9.0),
)
"""What follows: prompt, seconds."""


def register(commands: command.Commands) -> None:
    """Add the command."""
    parser = command.parser(commands, "demo", run, ABOUT, "tidings demo --port 8080 --every 10")
    parser.add_argument("--port", help="port to listen on; 0: any")
    parser.add_argument(
        "--port-file", metavar="FILE", type=Path, help="write the port there once it is open"
    )
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="go on starting one every so often, whether or not anybody watches",
    )
    command.add_places(parser)
    command.add_config(parser)


def run(arguments: Namespace) -> None:
    """Run until told to stop."""
    if arguments.every < 0:
        raise command.Failure("--every: takes seconds, 0 or more", command.WRONG_USE)
    command.settings(arguments, "port", "port_file", "log", "store")
    from tidings.observability import logging as service_logging

    service_logging.configure(redactor=output.redactor())
    command.run_loop(_demo(arguments))


async def _demo(arguments: Namespace) -> None:
    import httpx

    from tidings.config.loader import load_settings
    from tidings.config.webhook_key import with_webhook_key
    from tidings.demo.stand_in import StandIn
    from tidings.runtime import service

    flags = {name: getattr(arguments, name) for name in ("port", "port_file", "log", "store")}
    said = load_settings(flags, environ=os.environ, config=arguments.config).origins
    flags |= {name: url for name, url in PLACES.items() if name not in said}
    async with StandIn() as stand_in, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        # Port 0 of the public address is the one that is served.
        given = {"TIDINGS_PUBLIC_URL": "http://127.0.0.1:0", **os.environ, **stand_in.environment()}
        settings = load_settings(
            {**flags, "host": "127.0.0.1"}, environ=given, config=arguments.config
        )
        work: set[asyncio.Task[None]] = set()

        def ready(port: int) -> None:
            output.print_line(f"The page is at http://127.0.0.1:{port} (Ctrl-C ends it)")
            work.add(
                asyncio.create_task(_start_some(http, port, settings.api_keys, arguments.every))
            )

        try:
            await service.serve(with_webhook_key(settings), ready=ready)
        finally:
            for task in work:
                task.cancel()
                # The service may have ended under a request.
                with contextlib.suppress(asyncio.CancelledError, httpx.TransportError):
                    await task


async def _start_some(
    http: "httpx.AsyncClient", port: int, keys: "Sequence[str]", every: float
) -> None:
    """Start the predictions, then one `every` so many seconds; 0: now and then while anybody watches."""
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    url = f"http://127.0.0.1:{port}/api"

    async def start(prompt: str, payload: dict[str, Any], **more: Any) -> None:
        order = {"provider": "replicate", "model": MODEL, "prompt": prompt, "payload": payload}
        answer = await http.post(f"{url}/predictions", json={**order, **more}, headers=headers)
        answer.raise_for_status()

    async def write() -> None:
        await start(QUESTION, {"duration": WRITING}, model=WRITER, stream=True)

    for seed, (prompt, duration, more) in enumerate(PROMPTS):
        await start(prompt, {"seed": seed, "duration": duration, **more})
        if seed == 1:
            await write()
        await asyncio.sleep(APART)
    number = 0
    while True:
        await asyncio.sleep(every or WATCHED_EVERY)
        if every or await _watched(http, url, headers):
            number += 1
            if number % 3 == 0:
                await write()
            prompt, duration = MORE[number % len(MORE)]
            await start(prompt, {"seed": 100 + number, "duration": duration})


async def _watched(http: "httpx.AsyncClient", url: str, headers: dict[str, str]) -> bool:
    """Whether any client is connected; if that is not told, nobody is."""
    answer = await http.get(f"{url}/stats", headers=headers)
    if answer.status_code != 200:
        return False
    gateway = answer.json()["data"]["gateway"]
    return bool(gateway["sessions"] or gateway.get("streams"))
