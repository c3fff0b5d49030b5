"""`tidings` that kills itself on the spot with the write of its store under way that its first argument counts to."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from tidings.cli.main import main
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Outcome, Write


def die_at(count: int) -> None:
    """Let the process die in its `count`-th write."""
    write = SqliteStore.write
    left = count

    async def mortal(self: SqliteStore, writes: Sequence[Write]) -> list[Outcome]:
        nonlocal left
        left -= 1
        under_way = asyncio.ensure_future(write(self, writes))
        if left == 0:
            await asyncio.sleep(0)  # it is with the thread that writes
            os.kill(os.getpid(), signal.SIGKILL)
        return await under_way

    SqliteStore.write = mortal  # type: ignore[method-assign]


if __name__ == "__main__":
    die_at(int(sys.argv.pop(1)))
    main()
