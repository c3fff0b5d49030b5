"""`tidings serve` with a notifier that kills its own process at a step: `notifier_mortal.py STEP COUNT serve ...`."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tidings.config.loader import load_settings
from tidings.runtime import service
from tidings.streams.notifications.notifier import Notifier


def main() -> None:
    """Serve, and die as the step ends for the COUNT-th time."""
    step, count = int(sys.argv[1]), int(sys.argv[2])
    left = [count]

    def reached(number: int) -> None:
        if number == step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    made = Notifier.__init__

    def watched(self: Notifier, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **{**options, "reached": reached})

    Notifier.__init__ = watched  # type: ignore[method-assign]
    arguments = sys.argv[4:]
    flags: dict[str, Any] = {
        arguments[i].removeprefix("--").replace("-", "_"): arguments[i + 1]
        for i in range(0, len(arguments), 2)
    }
    flags["port_file"] = Path(flags["port_file"])
    settings = load_settings(flags, environ=os.environ, config=None)
    asyncio.run(service.serve(settings))


if __name__ == "__main__":
    main()
