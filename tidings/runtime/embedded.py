"""The service inside another program: `tidings.service`."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidings.config.checks import check, check_serving
from tidings.config.loader import load_settings
from tidings.config.settings import Settings
from tidings.config.webhook_key import with_webhook_key
from tidings.runtime.service import Service, running


@asynccontextmanager
async def service(settings: Settings | None = None) -> AsyncIterator[Service]:
    """Run the service in the caller's event loop for as long as the block runs.

    ```python
    async with tidings.service(tidings.Settings(port=0)) as running:
        print(running.port)
    ```

    Nothing is set up for the whole process: no signal handlers, no log, no limits of open files.

    Args:
        settings: What `tidings serve` would read; None: the environment and `tidings.toml` in the
            working folder.

    Yields:
        The running service; its `port` is the one that is served. When the block ends it is stopped
        in order: webhooks first, then the processor.

    Raises:
        SettingsError: A setting is wrong or missing.
        StorageError, LogError, OSError: It cannot start; one line says why.
        RuntimeError: No event loop is running.
    """
    running_loop()
    if settings is None:
        settings = load_settings(environ=os.environ)
    check(settings)
    check_serving(settings)
    async with running(with_webhook_key(settings)) as started:
        yield started


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that everything here runs in.

    Raises:
        RuntimeError: None is running; one line says what to do.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "no event loop is running here; start Tidings in a coroutine, with `async with`"
        ) from None
