"""The service as one ASGI application inside another: `tidings.asgi`."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tidings.config.checks import check
from tidings.config.loader import load_settings
from tidings.config.settings import Settings, SettingsError
from tidings.config.webhook_key import with_webhook_key
from tidings.gateway.asgi.scope import Message, Receive, Send
from tidings.gateway.auth.request_guard import Rights
from tidings.runtime.embedded import running_loop
from tidings.runtime.process.signals import host_is_stopping
from tidings.runtime.service import Mount, Service, running
from tidings.storage.loggers import get_logger

HOST_LOOKED_AT = 0.1
"""Seconds between two looks whether the host's server has been told to stop."""

logger = get_logger(__name__)

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class AsgiApplication:
    """Everything that the service serves, as one ASGI application. Made by `tidings.asgi`."""

    def __init__(self, settings: Settings, mount: Mount, otherwise: AsgiApp | None) -> None:
        self._settings = settings
        self._mount = mount
        self._otherwise = otherwise
        self._service: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ready: asyncio.Event | None = None
        self._over = False

    @property
    def service(self) -> Service:
        """The running service.

        Raises:
            RuntimeError: It is not started, or has ended.
        """
        if self._service is None:
            raise RuntimeError(
                "the Tidings application is "
                + ("closed; make another one" if self._over else "not started; " + _HOW_TO_START)
            )
        return self._service

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002 - hosts pass themselves
        """Run the service for as long as the block runs: the `lifespan` of FastAPI and Starlette.

        ```python
        predictions = tidings.asgi(settings)
        app = FastAPI(lifespan=predictions.lifespan)
        app.mount("/predictions", predictions)
        ```

        Raises:
            SettingsError, StorageError, LogError, OSError: It cannot start; one line says why.
        """
        if self._service is not None:
            raise RuntimeError("the Tidings application runs already; start it once")
        loop = running_loop()
        async with running(with_webhook_key(self._settings), mount=self._mount) as service:
            watching = loop.create_task(_follow_host(service), name="tidings-host")
            self._service, self._loop, self._over = service, loop, False
            try:
                yield
            finally:
                self._service, self._over = None, True
                watching.cancel()

    async def __aenter__(self) -> "AsgiApplication":
        self._entered = self.lifespan()
        await self._entered.__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._entered.__aexit__(*failure)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one scope, as the ASGI specification has it; each framework has types of its own."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(receive, send)
        elif kind not in ("http", "websocket"):
            raise ValueError(f"Tidings serves no ASGI scope of type {kind!r}")
        elif self._otherwise is not None and not _below(self._mount.prefix, scope["path"]):
            await self._otherwise(scope, receive, send)
        else:
            service = self._service or await self._started()
            if self._loop is not asyncio.get_running_loop():
                raise RuntimeError(
                    "the Tidings application runs in another event loop; make one for each loop"
                )
            assert service.asgi is not None
            await service.asgi(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The specification's lifespan, for servers that drive this application by itself."""
        await receive()
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            # Servers print what they are told, and end; the traceback would hide the one line.
            message: Message = {"type": "lifespan.startup.failed", "message": str(error)}
            if self._over:
                message["type"] = "lifespan.shutdown.failed"
            await send(message)
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _started(self) -> Service:
        """Start at the first request, if no lifespan has: it ends with the event loop."""
        if self._over:
            return self.service
        if self._starting is None or self._starting.done():
            self._ready = asyncio.Event()
            self._starting = asyncio.create_task(self._run(self._ready), name="tidings-service")
        assert self._ready is not None
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait([waiting, self._starting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._service is None:
            self._starting.result()
        return self.service

    async def _run(self, ready: asyncio.Event) -> None:
        logger.info("service.starting_late", advice=_HOW_TO_START)
        async with self.lifespan():
            ready.set()
            await asyncio.Event().wait()


def asgi(
    settings: Settings | None = None,
    *,
    rights: Rights | None = None,
    prefix: str = "",
    otherwise: AsgiApp | None = None,
) -> AsgiApplication:
    """The service as one ASGI application: REST, webhooks, event streams, WebSocket and page.

    ```python
    predictions = tidings.asgi()
    app = FastAPI(lifespan=predictions.lifespan)
    app.mount("/predictions", predictions)
    ```

    Args:
        settings: What `tidings serve` would read; None: the environment and `tidings.toml` in the
            working folder. Host and port are the server's, and not used.
        rights: What your application gives the caller of an ASGI scope: `tidings.Permissions`, or
            None for nobody; plain or a coroutine function. If it gives None, tokens count if the
            settings take any.
        prefix: Where it is mounted, such as `/predictions`, if its host says it in no `root_path`:
            Django, or Litestar.
        otherwise: The ASGI application that serves what is not below the prefix.

    Raises:
        SettingsError: A setting is wrong or missing.
        ValueError: The prefix is none.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ValueError(
            f"prefix is {prefix!r}; it begins with a slash and has none at its end: "
            f"{'/' + prefix.strip('/') if prefix.strip('/') else ''!r}"
        )
    if otherwise is not None and not prefix:
        raise ValueError("otherwise serves what is not below the prefix; give a prefix, too")
    if settings is None:
        settings = load_settings(environ=os.environ)
    check(settings)
    if "gateway" not in settings.roles:
        raise SettingsError("TIDINGS_ROLE: a mounted service is a gateway; name gateway, or all")
    return AsgiApplication(settings, Mount(prefix=prefix, rights=rights), otherwise)


async def _follow_host(service: Service) -> None:
    """Say farewell as soon as the host's server is told to stop: it waits for its connections."""
    while not host_is_stopping():  # noqa: ASYNC110 - it sets a plain attribute
        await asyncio.sleep(HOST_LOOKED_AT)
    if service.gateway is not None:
        await service.gateway.farewell()


def _below(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


_HOW_TO_START = "give its lifespan to your application: FastAPI(lifespan=predictions.lifespan)"
