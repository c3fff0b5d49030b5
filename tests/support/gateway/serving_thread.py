"""A small service in a thread of its own, for tests that are not asynchronous (hypothesis drives those)."""

import asyncio
import threading
from typing import Any

from tests.support.gateway.small_service import SmallService, small_service


class ServingThread:
    """Serves while the block lasts; the settings are those of `SmallService`."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self.service: SmallService | None = None

    @property
    def port(self) -> int:
        assert self.service is not None
        return self.service.port

    def __enter__(self) -> "ServingThread":
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with small_service(**self._settings) as service:
            self.service = service
            self._started.set()
            await self._stop.wait()
