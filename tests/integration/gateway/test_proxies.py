"""The gateway behind a real nginx and a real HAProxy."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.support import system
from tests.support.conditions import eventually
from tests.support.gateway.pushing import hear, nothing_more, subscribe
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tests.support.proxies import HAProxy, Nginx, Proxy
from tests.unit.gateway.websocket.test_connection import closed
from tidings.gateway.auth.rate_limits import AddressConnections, AddressLimits, TrustedProxies
from tidings.gateway.websocket.connection import WebSocketConnection

KINDS = {"nginx": (Nginx, system.NGINX), "haproxy": (HAProxy, system.HAPROXY)}


@contextlib.asynccontextmanager
async def behind(kind: str, **settings: Any) -> AsyncIterator[tuple[SmallService, Proxy]]:
    make, part = KINDS[kind]
    system.require(part)
    async with small_service(allowed_hosts=None, **settings) as service:
        proxy = make(service.port)
        try:
            await asyncio.to_thread(proxy.start)
            yield service, proxy
        finally:
            proxy.close()


def through(proxy: Proxy, address: str = "127.0.0.1", **options: Any) -> connect:
    """A WebSocket by way of the proxy, from this address."""
    return connect(
        f"ws://127.0.0.1:{proxy.port}/api/ws",
        subprotocols=["tidings.v1"],  # type: ignore[list-item]
        proxy=None,
        local_addr=(address, 0),
        **options,
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_websocket_through_a_proxy(kind: str) -> None:
    """The upgrade passes, changes come as they are made, large ones whole, and the close code arrives."""
    async with behind(kind) as (service, proxy):
        async with through(proxy, max_size=None) as socket:
            assert socket.subprotocol == "tidings.v1"
            assert (await hear(socket))["type"] == "welcome"
            await subscribe(socket, predictions=["p1"])
            for version, size in enumerate((10, 200_000, 10), 1):
                await service.put(prediction("p1", version=version, logs="x" * size))
                assert (await hear(socket))["prediction"]["version"] == version
            await socket.send("{")
            assert (await closed(socket))[0] == 4100
        await eventually(lambda: not len(service.sessions))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_upgrade_on_a_connection_that_was_kept_alive(kind: str) -> None:
    """Where the proxy sends the upgrade on a connection that has carried requests, the session is like any other."""
    async with (
        behind(kind) as (service, proxy),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}") as http,
    ):

        def taken_over() -> bool:
            connections = [one for group in service.sessions._groups for one in group]
            return any(
                isinstance(one, WebSocketConnection) and one._on_lost is not None
                for one in connections
            )

        async def upgraded() -> bool:
            assert (await http.get("/api/predictions/p1")).status_code in {200, 404}
            async with through(proxy) as socket:
                await hear(socket)
                if not taken_over():
                    return False
                await subscribe(socket, predictions=["p1"])
                await service.put(prediction("p1", version=service.reader.changes + 1))
                assert [one["type"] for one in await nothing_more(socket)] == ["change"]
                return True

        await eventually(upgraded, 20)
        await eventually(lambda: not len(service.sessions))


@pytest.mark.parametrize("kind", KINDS)
async def test_the_clients_address_counts_and_not_the_proxys(kind: str) -> None:
    """Limits apply to the address that the proxy forwards; what a client writes into the header itself changes nothing."""
    settings = {
        "trusted_proxies": TrustedProxies(["127.0.0.1"]),
        "connections": AddressConnections(most=1),
    }
    async with behind(kind, **settings) as (service, proxy):
        async with through(proxy, "127.0.0.5") as first, through(proxy, "127.0.0.6") as other:
            await hear(first)
            await hear(other)
            for forged in ({}, {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "127.0.0.1"}):
                async with through(proxy, "127.0.0.5", additional_headers=forged) as second:
                    assert (await closed(second))[0] == 4104
        await eventually(lambda: not len(service.connections))
        async with through(proxy, "127.0.0.5") as again:
            await hear(again)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_clients_address_counts_for_plain_requests(kind: str) -> None:
    """Over HTTP the limit is the forwarded address's too, whatever the client writes into the header itself."""
    limits = AddressLimits(rate=0.001, burst=3.0)
    async with behind(kind, trusted_proxies=TrustedProxies(["127.0.0.1"]), limits=limits) as (
        _,
        proxy,
    ):

        async def ask(address: str, **headers: str) -> int:
            transport = httpx.AsyncHTTPTransport(local_address=address)
            async with httpx.AsyncClient(transport=transport, timeout=20) as http:
                return (
                    await http.get(
                        f"http://127.0.0.1:{proxy.port}/api/predictions/p1", headers=headers
                    )
                ).status_code

        forged = [
            await ask("127.0.0.5", **{"X-Forwarded-For": f"192.0.2.{number}"})
            for number in range(4)
        ]
        assert forged == [404, 404, 404, 429]
        assert await ask("127.0.0.6") == 404


@pytest.mark.parametrize("kind", KINDS)
async def test_events_are_not_held_back(kind: str) -> None:
    """A proxy passes each event of a stream on when it is made."""
    async with (
        behind(kind) as (service, proxy),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", timeout=20) as client,
        client.stream("GET", "/api/predictions/p1/events") as answer,
        asyncio.timeout(30),
    ):
        lines = answer.aiter_lines()
        await until(lines, "event: unknown")
        for version in (1, 2, 3):
            await service.put(prediction("p1", version=version))
            await until(lines, "event: change")
            data = (await until(lines, "data: ")).removeprefix("data: ")
            assert json.loads(data)["prediction"]["version"] == version


async def until(lines: AsyncIterator[str], start: str) -> str:
    """The next line that begins so."""
    async for line in lines:
        if line.startswith(start):
            return line
    raise AssertionError(f"the stream ended before {start!r}")
