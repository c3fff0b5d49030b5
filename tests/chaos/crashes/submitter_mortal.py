"""`tidings serve`, impatient, that kills itself as a step of a submission ends: `mortal.py STEP serve ...`; 0: never."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tidings.config.loader import load_settings
from tidings.config.webhook_key import with_webhook_key
from tidings.runtime import service
from tidings.streams.submission.reconcile_policy import Timeouts

PATIENCE = Timeouts(
    silence=300,
    unsubmitted=300,
    unanswered=200,
    unknown=4_000,
    attempt=2_000,
    cancel=100,
    longest=1_000,
)


def main() -> None:
    """Serve, and die."""
    step, arguments = int(sys.argv[1]), sys.argv[3:]

    def reached(number: int, _prediction_id: str) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    flags: dict[str, Any] = {
        arguments[i].removeprefix("--").replace("-", "_"): arguments[i + 1]
        for i in range(0, len(arguments), 2)
    }
    flags["port_file"] = Path(flags["port_file"])
    settings = with_webhook_key(load_settings(flags, environ=os.environ, config=None))
    asyncio.run(service.serve(settings, timeouts=PATIENCE, submission_reached=reached))


if __name__ == "__main__":
    main()
