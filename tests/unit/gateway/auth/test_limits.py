"""What one owner, and one address, may use of the WebSockets."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from tests.support.clock import ManualClock
from tests.support.conditions import eventually
from tests.support.gateway.pushing import (
    Tokens,
    hear,
    hear_until,
    nothing_more,
    pushing,
    say,
    subscribe,
)
from tests.support.gateway.small_service import small_service
from tests.unit.gateway.websocket.test_connection import closed
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.quotas import OwnerLimits
from tidings.gateway.auth.rate_limits import (
    AddressConnections,
    AddressLimits,
    TrustedProxies,
    address_group,
)
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Problem

pytestmark = pytest.mark.doors

TOKENS = Tokens(
    {
        "ann": Permissions(subject="ann"),
        "ann again": Permissions(subject="ann", owners=frozenset({"zoe"})),
        "bob": Permissions(subject="bob"),
        "key": Permissions(scopes=frozenset({"watch:all"})),
    }
)


async def entered(client: ClientConnection, token: str) -> ClientConnection:
    """Bring a token, and be welcomed."""
    await say(client, type="auth", token=token)
    assert (await hear(client))["type"] == "welcome"
    return client


async def test_an_owners_connections_are_limited() -> None:
    """One connection too many of an owner is closed with 4104; another owner's, and keys without one, are not."""
    async with pushing(authenticator=TOKENS, owners=OwnerLimits(connections=2)) as push:
        async with push.client() as first, push.client() as second, push.client() as third:
            await entered(first, "ann")
            await entered(second, "ann again")
            await say(third, type="auth", token="ann")
            assert (await closed(third))[0] == 4104
            for token in ("bob", "key", "key", "key"):
                async with push.client() as other:
                    await entered(other, token)
        await eventually(lambda: not len(push.owners))
        async with push.client() as again:
            await entered(again, "ann")


async def test_an_owners_subscriptions_are_limited_over_all_its_connections() -> None:
    """What is unsubscribed, closed or ended by a renewal counts no more; one subscription beyond closes with 4104."""
    async with pushing(authenticator=TOKENS, owners=OwnerLimits(subscriptions=4)) as push:
        async with push.client() as first, push.client() as second:
            await entered(first, "ann again")
            await entered(second, "ann")
            await subscribe(first, predictions=["a", "b"])
            await subscribe(first, owner="zoe")
            await say(first, type="auth", token="ann")  # ends the owner that it does not cover
            assert (await hear_until(first, "error"))[-1]["code"] == "forbidden"
            await subscribe(second, predictions=["a", "b"])
            await say(second, type="unsubscribe", predictions=["b", "never watched"])
            await hear_until(second, "unsubscribed")
            await subscribe(second, predictions=["c"])
            await say(second, type="subscribe", predictions=["d"])
            assert (await closed(second))[0] == 4104
            await subscribe(first, predictions=["c", "d"])
            await say(first, type="auth", token="bob")  # takes its subscriptions along
            async with push.client() as third:
                await entered(third, "ann")
                await subscribe(third, predictions=["a", "b", "c", "d"])
        await eventually(lambda: not len(push.owners))


async def test_an_owner_that_sends_too_much_is_read_slowly() -> None:
    """Messages beyond the owner's rate wait unread, over all its connections, and are answered in the end."""
    owners = OwnerLimits(messages_per_second=40)
    async with (
        pushing(authenticator=TOKENS, owners=owners) as push,
        push.client() as one,
        push.client() as two,
    ):
        await entered(one, "ann")
        await entered(two, "ann")
        began = asyncio.get_running_loop().time()
        for ref in range(60):
            await say(one, type="ping", ref=ref)
            await say(two, type="ping", ref=ref)
        for client in (one, two):
            for ref in range(60):
                assert await hear(client) == {"type": "pong", "ref": ref}
        assert (
            asyncio.get_running_loop().time() - began > 1.0
        )  # 120 at 40 a second, less the second's worth at once
        assert await nothing_more(one) == []


async def test_what_an_owners_sessions_claim_to_know_is_limited() -> None:
    """Versions that clients name are kept for them: over all sessions twice as many as subscriptions."""
    async with pushing(authenticator=TOKENS, owners=OwnerLimits(subscriptions=4)) as push:
        async with push.client() as first, push.client() as second:
            await entered(first, "ann")
            await entered(second, "ann")
            await subscribe(first, owner="ann", known={f"p{number}": 1 for number in range(5)})
            await say(second, type="subscribe", owner="ann", known={f"q{n}": 1 for n in range(4)})
            assert (await closed(second))[0] == 4104
            await say(first, type="unsubscribe", owner="ann")
            await hear_until(first, "unsubscribed")
            async with push.client() as third:
                await entered(third, "ann")
                await subscribe(third, owner="ann", known={f"r{n}": 1 for n in range(8)})
        await eventually(lambda: not len(push.owners))


def guard(
    trusted: tuple[str, ...] = (), **limits: Any
) -> tuple[RequestGuard, ManualClock, AddressConnections]:
    clock = ManualClock()
    connections = AddressConnections(**limits)
    checking = RequestGuard(
        connections=connections,
        trusted_proxies=TrustedProxies(trusted),
        allowed_hosts=None,
        clock=clock,
    )
    return checking, clock, connections


def admitted(judged: object) -> Callable[[], None]:
    assert callable(judged), judged
    leave: Callable[[], None] = judged
    return leave


def refused(judged: object) -> None:
    assert isinstance(judged, Problem)
    assert judged.status == 429


def test_an_addresss_connections_are_limited() -> None:
    """An address has so many WebSockets at once; one that is gone makes room, and other addresses never notice."""
    judge, _, connections = guard(most=2)
    leave = admitted(judge.admit_websocket({}, "192.0.2.1"))
    admitted(judge.admit_websocket({}, "192.0.2.1"))
    refused(judge.admit_websocket({}, "192.0.2.1"))
    other = admitted(judge.admit_websocket({}, "192.0.2.2"))
    leave()
    admitted(judge.admit_websocket({}, "192.0.2.1"))
    other()
    assert len(connections) == 1


def test_an_addresss_handshakes_are_limited() -> None:
    """An address may begin so many WebSockets in a second, even where it closes each at once."""
    judge, clock, connections = guard(handshakes=AddressLimits(rate=1.0, burst=3.0))
    for _ in range(3):
        admitted(judge.admit_websocket({}, "192.0.2.1"))()
    refused(judge.admit_websocket({}, "192.0.2.1"))
    clock.seconds = 1.0
    admitted(judge.admit_websocket({}, "192.0.2.1"))()
    assert len(connections) == 0


def test_this_machine_has_no_limit() -> None:
    """The loopback range is not counted, unless a proxy that is trusted names somebody else."""
    judge, _, _ = guard(most=0)
    assert judge.admit_websocket({}, "127.0.0.1") is None
    assert judge.admit_websocket({}, "::1") is None
    assert judge.admit_websocket({"x-forwarded-for": "192.0.2.1"}, "127.0.0.1") is None


@pytest.mark.parametrize("proxy", ["127.0.0.1", "10.0.0.7"])
def test_a_trusted_proxy_tells_whom_to_count(proxy: str) -> None:
    """Behind a trusted proxy each forwarded address has its own limit, and what a client forges does not count."""
    judge, _, _ = guard(trusted=("127.0.0.0/8", "10.0.0.0/8"), most=1)
    admitted(judge.admit_websocket({"x-forwarded-for": "192.0.2.1"}, proxy))
    refused(judge.admit_websocket({"x-forwarded-for": "192.0.2.1"}, proxy))
    refused(judge.admit_websocket({"x-forwarded-for": "203.0.113.9, 192.0.2.1"}, proxy))
    admitted(judge.admit_websocket({"x-forwarded-for": "192.0.2.2"}, proxy))
    admitted(
        judge.admit_websocket({"x-forwarded-for": "192.0.2.2"}, "192.0.2.77")
    )  # nobody trusts that one's word


async def test_a_line_of_the_clients_own_evades_no_limit() -> None:
    """A proxy may add its word as another header line: over HTTP it is read with the client's, as on the WebSocket."""
    settings: dict[str, Any] = {"trusted_proxies": TrustedProxies(["127.0.0.1"])}
    settings["limits"] = AddressLimits(rate=0.001, burst=3.0)
    async with (
        small_service(allowed_hosts=None, **settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):

        async def ask(*addresses: str) -> int:
            headers = [("X-Forwarded-For", address) for address in addresses]
            return (await client.get("/api/predictions/p1", headers=headers)).status_code

        forged = [await ask(f"192.0.2.{number}", "203.0.113.7") for number in range(5)]
        assert forged == [404, 404, 404, 429, 429]
        assert await ask("203.0.113.7", "203.0.113.8") == 404


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::9%eth0", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("", ""),
        ("somewhere", "somewhere"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, group: str) -> None:
    """Whoever has an IPv6 address has a whole /64: each of its addresses counts as the same."""
    assert address_group(address) == group


def test_a_network_of_mapped_addresses_is_trusted() -> None:
    """A proxy's IPv4 address is the same, however it and the network are written."""
    proxies = TrustedProxies(["::ffff:10.0.0.0/104", "fd00::/8"])
    assert proxies.trusts("10.0.0.7")
    assert proxies.trusts("::ffff:10.0.0.7")
    assert proxies.client("fd00::1", "2001:db8::9, [fd00::2]:443") == "2001:db8::9"


def test_limits_hold_for_a_whole_network() -> None:
    """Changing the address within its /64 evades no limit."""
    judge, _, _ = guard(most=2)
    admitted(judge.admit_websocket({}, "2001:db8::1"))
    leave = admitted(judge.admit_websocket({}, "2001:db8::2"))
    refused(judge.admit_websocket({}, "2001:db8::3"))
    admitted(judge.admit_websocket({}, "2001:db8:0:1::3"))
    leave()
    admitted(judge.admit_websocket({}, "2001:db8::4"))
