"""The service as one ASGI application in those of other frameworks, behind a real server."""

import asyncio
import gc
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import django.conf
import httpx
import litestar
import pytest
import structlog
from django.core.asgi import get_asgi_application
from fastapi import FastAPI
from litestar.types import Receive, Scope, Send
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import tidings
from tests.support.conditions import eventually
from tests.support.gateway.doors import uvicorn_serving
from tests.support.webhooks import SECRET, report, signed, start

PREFIX = "/predictions"


def settings_in(folder: Path) -> tidings.Settings:
    return tidings.load_settings(
        environ={
            "TIDINGS_LOG": f"sqlite:///{folder}/log.db",
            "TIDINGS_STORE": f"sqlite:///{folder}/store.db",
            "TIDINGS_ASSETS": f"file:///{folder}/assets",
            "TIDINGS_REPLICATE_SECRET": SECRET,
        }
    )


def in_fastapi(settings: tidings.Settings, **options: Any) -> tuple[tidings.AsgiApplication, Any]:
    predictions = tidings.asgi(settings, **options)
    app = FastAPI(lifespan=predictions.lifespan)
    app.mount(PREFIX, predictions)
    return predictions, app


def in_starlette(settings: tidings.Settings) -> tuple[tidings.AsgiApplication, Any]:
    predictions = tidings.asgi(settings)
    return predictions, Starlette(routes=[Mount(PREFIX, app=predictions)])


def in_litestar(settings: tidings.Settings) -> tuple[tidings.AsgiApplication, Any]:
    predictions = tidings.asgi(settings, prefix=PREFIX)

    @litestar.asgi(PREFIX, is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await predictions(scope, receive, send)

    return predictions, litestar.Litestar([mounted], lifespan=[predictions.lifespan])


def in_django(settings: tidings.Settings) -> tuple[tidings.AsgiApplication, Any]:
    if not django.conf.settings.configured:
        django.conf.settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
    predictions = tidings.asgi(settings, prefix=PREFIX, otherwise=get_asgi_application())
    return predictions, predictions


urlpatterns: list[Any] = []
"""Of Django's project: none."""

HOSTS: dict[str, Callable[[tidings.Settings], tuple[tidings.AsgiApplication, Any]]] = {
    "fastapi": in_fastapi,
    "starlette": in_starlette,
    "litestar": in_litestar,
    "django": in_django,
}


@asynccontextmanager
async def serving(predictions: tidings.AsgiApplication, app: Any) -> AsyncIterator[str]:
    """The address of the mount, with its lifespan around."""
    async with predictions, uvicorn_serving(app) as port:
        yield f"http://127.0.0.1:{port}{PREFIX}"


async def hear(client: Any) -> dict[str, Any]:
    async with asyncio.timeout(10):
        return json.loads(await client.recv())  # type: ignore[no-any-return]


@pytest.mark.parametrize("host", HOSTS)
async def test_everything_below_a_prefix(host: str, tmp_path: Path) -> None:
    """In each framework a webhook reaches a WebSocket, an event stream, the library and REST, below the prefix."""
    settings = settings_in(tmp_path)
    async with serving(*HOSTS[host](settings)) as url, httpx.AsyncClient(base_url=url) as http:
        async with connect(url.replace("http", "ws") + "/api/ws", proxy=None) as socket:
            assert (await hear(socket))["type"] == "welcome"
            await socket.send('{"type":"subscribe","predictions":["p1"]}')
            assert [(await hear(socket))["type"] for _ in range(3)] == [
                "subscribed",
                "unknown",
                "synced",
            ]
            body = start("p1")
            sent = await http.post("/api/webhooks/replicate", content=body, headers=signed(body))
            assert (sent.status_code, sent.json()) == (200, {"success": True})
            change = await hear(socket)
            assert (change["type"], change["prediction"]["status"]) == ("change", "processing")
        async with tidings.Client(url) as client:
            assert (await client.get("p1")).prompt == "a jersey"
        async with http.stream("GET", "/api/predictions/p1/events") as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: snapshot"
        text = await http.put(
            "/v1/stream/t1", headers={"Content-Type": "text/plain"}, content="One"
        )
        assert text.status_code == 201
        assert (await http.get(httpx.URL(url).join(text.headers["Location"]))).text == "One"
        page = await http.get("/")
        assert page.status_code == 200
        assert "text/html" in page.headers["content-type"]
        assert (await http.get("/static/tidings.js")).status_code == 200


async def test_a_host_says_who_its_callers_are(tmp_path: Path) -> None:
    """What the callable gives counts for REST, event streams and WebSockets; None is nobody."""

    async def rights(scope: Any) -> tidings.Permissions | None:
        user = dict(scope["headers"]).get(b"x-user")
        return None if user is None else tidings.Permissions(subject=user.decode())

    settings = settings_in(tmp_path)
    host = in_fastapi(settings, rights=rights)
    async with serving(*host) as url, httpx.AsyncClient(base_url=url) as http:
        body = start("p1")
        assert (
            await http.post("/api/webhooks/replicate", content=body, headers=signed(body))
        ).status_code == 200
        service = host[0].service
        await eventually(lambda: service.cache.peek("p1"))
        assert (await http.get("/api/predictions")).status_code == 401
        anna = {"X-User": "anna"}
        assert (await http.get("/api/predictions/p1", headers=anna)).status_code == 404  # nobody's
        assert (await http.get("/api/predictions", headers=anna)).json()["data"] == []
        assert (await http.get("/api/stats", headers=anna)).status_code == 403
        ws = url.replace("http", "ws") + "/api/ws"
        async with connect(ws, proxy=None, additional_headers=anna) as socket:
            assert (await hear(socket))["type"] == "welcome"
            await socket.send('{"type":"subscribe","owner":"bert"}')
            assert (await hear(socket))["code"] == "forbidden"
            await socket.send('{"type":"subscribe","owner":"anna"}')
            assert (await hear(socket))["type"] == "subscribed"
        async with connect(ws, proxy=None) as socket:
            await socket.send('{"type":"auth","token":"whatever"}')
            with pytest.raises(Exception, match="4102"):
                await hear(socket)


async def test_rights_of_a_wrong_type_open_nothing(tmp_path: Path) -> None:
    """A callable that returns something else gives nobody anything."""
    host = in_fastapi(settings_in(tmp_path), rights=lambda scope: True)
    async with serving(*host) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/api/predictions")).status_code == 500
        with pytest.raises(InvalidStatus, match="500"):
            await connect(url.replace("http", "ws") + "/api/ws", proxy=None)


async def test_two_in_one_process_share_nothing(tmp_path: Path) -> None:
    """What one service takes, another one in the same process knows nothing of, and neither counts for the other."""
    async with AsyncExitStack() as stack:
        urls = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            host = in_fastapi(settings_in(tmp_path / name))
            urls.append(await stack.enter_async_context(serving(*host)))
        http = await stack.enter_async_context(httpx.AsyncClient())
        body = start("p1")
        await http.post(urls[0] + "/api/webhooks/replicate", content=body, headers=signed(body))

        async def stored() -> bool:
            return (await http.get(urls[0] + "/api/predictions/p1")).status_code == 200

        await eventually(stored)
        assert (await http.get(urls[1] + "/api/predictions/p1")).status_code == 404
        counted = [(await http.get(url + "/metrics")).text for url in urls]
        line = 'tidings_webhooks_total{provider="replicate",status="200"} 1.0'
        assert [line in text for text in counted] == [True, False]
        writes = 'tidings_storage_success_total{arm="",operation="write",store="sqlite"} 0.0'
        assert [writes in text for text in counted] == [False, True]


async def test_without_a_lifespan_it_starts_at_the_first_request(tmp_path: Path) -> None:
    """Where no host runs the lifespan the first request starts the service, and the loop's end ends it."""
    predictions = tidings.asgi(settings_in(tmp_path))
    async with uvicorn_serving(predictions) as port, httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}/readyz"
        answers = await asyncio.gather(*(http.get(url) for _ in range(5)))
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert predictions.service.asgi is not None
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "tidings-service"]
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(RuntimeError, match="closed; make another one"):
        _ = predictions.service


async def test_nothing_of_the_process_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals, log, garbage collector and the interpreter's switch interval are as they were while it runs."""
    intervals: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", intervals.append)
    before = process_settings()
    host = in_fastapi(settings_in(tmp_path))
    async with serving(*host) as url, httpx.AsyncClient() as http:
        body = report("p1")
        sent = await http.post(f"{url}/api/webhooks/replicate", content=body, headers=signed(body))
        assert sent.status_code == 200
        assert process_settings() == before
    assert process_settings() == before
    assert intervals == []


def process_settings() -> list[object]:
    root = logging.getLogger()
    return [
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        gc.get_threshold(),
        gc.get_freeze_count(),
        list(root.handlers),
        root.level,
        structlog.get_config(),
    ]


async def test_changes_in_the_same_process(tmp_path: Path) -> None:
    """The program that runs the service hears of what stands and of every change, without a connection."""
    host = in_fastapi(settings_in(tmp_path))
    async with serving(*host) as url, httpx.AsyncClient(base_url=url) as http:
        service = host[0].service
        for body in (start("p1"), report("p1")):
            await http.post("/api/webhooks/replicate", content=body, headers=signed(body))
        heard = []
        async with asyncio.timeout(20), aclosing(service.changes("p1")) as changes:
            async for change in changes:
                assert isinstance(change, tidings.Prediction)
                heard.append(change.status.value)
                if change.status.terminal:
                    break
        assert heard[-1] == "succeeded"
        async with asyncio.timeout(20), aclosing(service.changes(all=True)) as changes:
            assert (await anext(changes)).prediction_id == "p1"
        with pytest.raises(ValueError, match="exactly one"):
            service.changes()
    with pytest.raises(RuntimeError, match="ended"):
        service.changes("p1")


@pytest.mark.parametrize("prefix", ["/predictions/", "predictions", "/"])
def test_a_prefix_that_is_none(prefix: str) -> None:
    """A prefix is one that addresses begin with: the error says how to write it."""
    with pytest.raises(ValueError, match="begins with a slash and has none at its end"):
        tidings.asgi(tidings.Settings(log="memory://", store="memory://"), prefix=prefix)


async def test_a_service_that_is_not_started() -> None:
    """Who asks for the service too early is told how it is started."""
    predictions = tidings.asgi(tidings.Settings(log="memory://", store="memory://"))
    with pytest.raises(RuntimeError, match="not started; give its lifespan"):
        _ = predictions.service


async def test_an_event_loop_of_another_thread(tmp_path: Path) -> None:
    """An application that runs in one event loop refuses requests of another one in one line."""
    predictions = tidings.asgi(settings_in(tmp_path))
    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": []}

    async def nothing(*_: object) -> None:
        """Neither receives nor sends."""

    async with predictions:
        call = asyncio.to_thread(asyncio.run, predictions(scope, nothing, nothing))
        with pytest.raises(RuntimeError) as told:
            await call
    assert str(told.value) == (
        "the Tidings application runs in another event loop; make one for each loop"
    )


async def test_a_second_start(tmp_path: Path) -> None:
    """Who starts an application twice is told to start it once."""
    predictions = tidings.asgi(settings_in(tmp_path))
    async with predictions:
        with pytest.raises(RuntimeError, match="runs already; start it once"):
            async with predictions.lifespan():
                pass


@pytest.mark.parametrize("start", ["service", "lifespan"])
def test_no_running_loop(start: str, tmp_path: Path) -> None:
    """Who starts it where no event loop runs is told so in one line that says how."""
    settings = settings_in(tmp_path)
    entered = tidings.service(settings) if start == "service" else tidings.asgi(settings)
    coroutine = entered.__aenter__()
    with pytest.raises(RuntimeError) as told:
        coroutine.send(None)
    assert str(told.value) == (
        "no event loop is running here; start Tidings in a coroutine, with `async with`"
    )
