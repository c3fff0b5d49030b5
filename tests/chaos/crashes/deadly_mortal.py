"""`tidings serve` in little memory, with a processor that needs too much of it for one record: `deadly_mortal.py serve ...`.

Decoding a body that says `deadly` takes memory until the limit of the process is met, and the process ends on the spot, as
the kernel of a container ends one.
"""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidings.config.loader import load_settings
from tidings.runtime import service
from tidings.streams.log.protocol import Record
from tidings.streams.processing import batch
from tidings.streams.processing.decoder import decode_event
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.event import Event

ROOM = 1024 * 2**20
"""Bytes that the process may take beyond what it has when it starts."""


def main() -> None:
    """Serve, and die."""

    def hungry(record: Record, providers: Mapping[str, Provider]) -> Event:
        if b"deadly" in (record.value or b""):
            taken = []
            try:
                while True:
                    taken.append(bytearray(8 * 2**20))
            except MemoryError:
                os.kill(os.getpid(), signal.SIGKILL)
        return decode_event(record, providers)

    batch.decode_event = hungry  # type: ignore[attr-defined]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    arguments = sys.argv[2:]
    flags: dict[str, Any] = {
        arguments[i].removeprefix("--").replace("-", "_"): arguments[i + 1]
        for i in range(0, len(arguments), 2)
    }
    flags["port_file"] = Path(flags["port_file"])
    settings = load_settings(flags, environ=os.environ, config=None)
    asyncio.run(service.serve(settings))


if __name__ == "__main__":
    main()
