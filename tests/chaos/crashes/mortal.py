"""`tidings serve` with a processor that kills its own process at a step of its commit: `mortal.py STEP COUNT serve ...`.

The step is one of the numbered ones; the process dies as it ends for the COUNT-th time.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tidings.config.loader import load_settings
from tidings.runtime import service


def main() -> None:
    """Serve, and die."""
    step, count = int(sys.argv[1]), int(sys.argv[2])
    left = [count]

    def reached(number: int) -> None:
        if number == step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    arguments = sys.argv[4:]
    flags: dict[str, Any] = {
        arguments[i].removeprefix("--").replace("-", "_"): arguments[i + 1]
        for i in range(0, len(arguments), 2)
    }
    flags["port_file"] = Path(flags["port_file"])
    settings = load_settings(flags, environ=os.environ, config=None)
    asyncio.run(service.serve(settings, reached=reached))


if __name__ == "__main__":
    main()
