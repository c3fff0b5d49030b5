"""The limits of clients as an operator sets them, up to the running service."""

from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.gateway.pushing import hear, say, subscribe
from tests.support.tidings_process import serving
from tests.unit.gateway.websocket.test_connection import closed
from tidings.config.loader import load_settings
from tidings.config.settings import Settings
from tidings.gateway.auth.quotas import OwnerLimits, SessionLimits
from tidings.gateway.auth.rate_limits import AddressConnections, AddressLimits
from tidings.gateway.http.held_bytes import HeldLimits
from tidings.runtime import limits

FROM = {"X-Forwarded-For": "203.0.113.7"}
OTHER = {"X-Forwarded-For": "203.0.113.8"}


def test_the_defaults_are_the_parts_own() -> None:
    """With nothing set, every part has the limits that it has without settings."""
    settings = Settings()
    assert limits.session_limits(settings) == SessionLimits()
    assert limits.owner_limits(settings) == OwnerLimits()
    assert limits.held_limits(settings) == HeldLimits()
    mine, parts = limits.address_limits(settings), AddressLimits()
    assert (mine.rate, mine.burst) == (parts.rate, parts.burst)
    assert limits.address_connections(settings).most == AddressConnections().most


def test_a_table_of_the_file_is_a_kind_of_limit(tmp_path: Path) -> None:
    """In `tidings.toml` the limits of an address, an owner and a session are a table each."""
    file = tmp_path / "tidings.toml"
    file.write_text(
        "[address]\nconnections = 7\n[owner]\nmessages = 8\n[session]\nsubscriptions = 9\n"
    )
    settings = load_settings(environ={}, folder=tmp_path)
    assert (
        settings.address_connections,
        settings.owner_messages,
        settings.session_subscriptions,
    ) == (7, 8, 9)


async def test_the_doctor_doubts_limits_that_contradict_each_other(tmp_path: Path) -> None:
    """The limits in force are told; one that another makes unreachable is warned of, with what to change."""

    async def says(settings: dict[str, str]) -> tuple[str, str]:
        ended = await tidings(tmp_path, "doctor", "--json", settings=settings)
        (found,) = [one for one in ended.json["parts"] if one["part"] == "limits"]
        return found["state"], found["says"]

    state, line = await says({"TIDINGS_ADDRESS_CONNECTIONS": "33"})
    assert state == "ok"
    assert "33 WebSockets" in line
    state, line = await says(
        {"TIDINGS_OWNER_SUBSCRIPTIONS": "5", "TIDINGS_ADDRESS_CONNECTIONS": "900000000"}
    )
    assert state == "warning"
    assert "TIDINGS_SESSION_SUBSCRIPTIONS (10000), which no session can reach" in line
    assert "ulimit" in line
    assert (await says({"TIDINGS_ROLE": "processor", "TIDINGS_OWNER_SUBSCRIPTIONS": "5"}))[
        0
    ] == "ok"


async def test_limits_of_an_address_hold_behind_a_trusted_proxy(tmp_path: Path) -> None:
    """Requests, WebSockets and streams count for the address that the proxy names; another address is served."""
    settings = {
        "TIDINGS_TRUSTED_PROXIES": "127.0.0.0/8",
        "TIDINGS_ADDRESS_CONNECTIONS": "1",
        "TIDINGS_ADDRESS_STREAMS": "1",
        "TIDINGS_ADDRESS_REQUESTS": "2",
    }
    async with (
        serving(tmp_path, settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        async with connect(service.ws_url, additional_headers=FROM) as first:
            assert (await hear(first))["type"] == "welcome"
            async with connect(service.ws_url, additional_headers=FROM) as second:
                assert (await closed(second))[0] == 4104
            async with connect(service.ws_url, additional_headers=OTHER) as other:
                assert (await hear(other))["type"] == "welcome"
        async with client.stream("GET", "/api/events?all=true", headers=FROM) as stream:
            assert stream.status_code == 200
            refused = await client.get("/api/events?all=true", headers=FROM)
            assert (refused.status_code, refused.json()["code"]) == (429, "too-many-streams")
            assert (await client.head("/api/events?all=true", headers=OTHER)).status_code == 200

        async def too_many() -> bool:
            answer = await client.get("/api/predictions/p1", headers=FROM)
            return answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1

        await eventually(too_many, 30)
        assert (await client.get("/api/predictions/p1", headers=OTHER)).status_code == 404
        assert (await client.get("/api/predictions/p1")).status_code == 404


async def test_limits_of_an_owner_and_a_session_hold(tmp_path: Path) -> None:
    """One subscription too many of a session, and one connection too many of an owner, are closed with 4104."""
    settings = {
        "TIDINGS_JWT_SECRET": "a secret of more than thirty-two bytes",
        "TIDINGS_OWNER_CONNECTIONS": "1",
        "TIDINGS_SESSION_SUBSCRIPTIONS": "2",
    }
    async with serving(tmp_path, settings) as service:
        token = (await tidings(tmp_path, "token", "--sub", "ann", settings=settings)).out.strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(service.ws_url, additional_headers=headers) as first:
            assert (await hear(first))["type"] == "welcome"
            async with connect(service.ws_url, additional_headers=headers) as second:
                assert (await closed(second))[0] == 4104
            await subscribe(first, predictions=["a", "b"])
            await say(first, type="subscribe", predictions=["c"])
            assert (await closed(first))[0] == 4104
