"""`tidings.v1` over real WebSockets: sessions, subscriptions, snapshots, changes."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping

import jwt
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.clock import ManualClock
from tests.support.conditions import eventually
from tests.support.gateway.pushing import (
    Push,
    Tokens,
    hear,
    hear_until,
    nothing_more,
    pushing,
    say,
    subscribe,
)
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.quotas import SessionLimits
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims, TokenAuthenticator
from tidings.gateway.http.problems import Problem, forbidden
from tidings.gateway.websocket.connection import WebSocketConnection
from tidings.storage.prediction import Status

SECRET = b"a secret of more than thirty-two bytes"


pytestmark = pytest.mark.doors


def versions(messages: list[dict[str, object]], kind: str = "change") -> list[int]:
    return [message["prediction"]["version"] for message in messages if message["type"] == kind]  # type: ignore[index]


async def closed(client: ClientConnection) -> tuple[int, str]:
    """The code and reason with which the server closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await hear(client)
    assert client.close_code is not None
    return client.close_code, client.close_reason or ""


async def test_a_client_is_welcomed_and_gets_changes() -> None:
    """A subscriber gets a snapshot of what stands, and then each change with the store's bytes."""
    async with pushing() as push, push.client() as client:
        assert client.subprotocol == "tidings.v1"
        welcome = await hear(client)
        assert (welcome["type"], welcome["heartbeat"]) == ("welcome", 25000)
        await push.change("p1", 1)
        heard = await subscribe(client, ref=1, predictions=["p1"])
        assert [message["type"] for message in heard] == ["subscribed", "snapshot", "synced"]
        assert heard[0]["ref"] == 1
        assert heard[2] == {"type": "synced", "ref": 1, "more": False}
        await push.change("p1", 2, status=Status.SUCCEEDED)
        assert (await hear(client))["prediction"]["status"] == "succeeded"


async def test_numbers_pass_unchanged() -> None:
    """A number too large for a double arrives with every digit."""
    async with pushing() as push, push.client() as client:
        await subscribe(client, predictions=["p1"])
        await push.change("p1", 1, payload=msgspec.Raw(b'{"seed":17454220438242315174}'))
        assert '"seed":17454220438242315174' in await client.recv()


async def test_unknown_predictions_are_pushed_when_they_appear() -> None:
    """A subscription to a prediction that does not exist is answered with `unknown` and stands."""
    async with pushing() as push, push.client() as client:
        heard = await subscribe(client, ref=7, predictions=["p9"])
        assert heard[1] == {"type": "unknown", "predictionId": "p9"}
        await push.change("p9", 1)
        assert versions([await hear(client)]) == [1]


async def test_known_versions_are_not_sent_again() -> None:
    """What the client knows is not sent, neither as snapshot nor when its announcement comes late."""
    async with pushing() as push, push.client() as client:
        old = await push.stand("p1", 3)
        heard = await subscribe(client, predictions=["p1"], known={"p1": 3})
        assert [message["type"] for message in heard] == ["subscribed", "synced"]
        await push.announce(old)
        await push.change("p1", 4)
        assert versions(await nothing_more(client)) == [4]


async def test_a_snapshot_newer_than_its_announcement_is_sent_once() -> None:
    """A record read from the store before its change came is not sent again by the change."""
    async with pushing() as push, push.client() as client:
        first = await push.stand("p1", 1)
        second = await push.stand("p1", 2)
        assert versions(await subscribe(client, predictions=["p1"]), "snapshot") == [2]
        await push.announce(first, second)
        await push.change("p1", 3)
        assert versions(await nothing_more(client)) == [3]


async def test_a_known_prediction_that_is_gone_is_told() -> None:
    """A deletion is told with its version: live, and to a client that comes back later."""
    async with pushing() as push, push.client() as client:
        await push.change("p1", 1)
        await subscribe(client, predictions=["p1"])
        await push.delete("p1", 2)
        assert await hear(client) == {"type": "deleted", "predictionId": "p1", "version": 2}
        async with push.client() as late:
            heard = await subscribe(late, predictions=["p1"], known={"p1": 1})
            assert heard[1] == {"type": "deleted", "predictionId": "p1", "version": 2}


@pytest.mark.parametrize(
    "watch",
    [{"owner": "o"}, {"tag": "t"}, {"model": "m"}, {"all": True}],
    ids=["owner", "tag", "model", "all"],
)
async def test_wide_subscriptions(watch: dict[str, object]) -> None:
    """An owner, a tag, a model and everything can be watched: the newest as snapshots, and then every change."""
    async with pushing() as push, push.client() as client:
        for number in range(5):
            await push.change(f"p{number}", 1, owner="o", tags=("t",), model="m", created_at=number)
        heard = await subscribe(client, ref=1, limit=2, known={"p4": 1}, **watch)
        names = [
            message["prediction"]["predictionId"]
            for message in heard
            if message["type"] == "snapshot"
        ]
        assert names == ["p3", "p2"]
        assert heard[-1] == {"type": "synced", "ref": 1, "more": True}
        heard = await subscribe(client, limit=3, known={"p4": 1, "p3": 1}, **watch)
        assert heard[-1]["more"] is False
        await push.change("new", 1, owner="o", tags=("t", "u"), model="m")
        assert versions(await nothing_more(client)) == [1]


async def test_a_change_that_matches_twice_comes_once() -> None:
    """A session that watches a prediction, its owner and everything gets a change once."""
    async with pushing() as push, push.client() as client:
        for watch in ({"predictions": ["p1"]}, {"owner": "o"}, {"tag": "t"}, {"all": True}):
            await subscribe(client, **watch)
        await push.change("p1", 1, owner="o", tags=("t",))
        assert versions(await nothing_more(client)) == [1]


async def test_unsubscribing_ends_it() -> None:
    """After `unsubscribed` nothing of what was watched comes any more."""
    async with pushing() as push, push.client() as client:
        await subscribe(client, predictions=["p1", "p2"])
        await say(client, type="unsubscribe", ref=2, predictions=["p1"])
        assert await hear(client) == {"type": "unsubscribed", "ref": 2}
        await push.change("p1", 1)
        await push.change("p2", 1)
        assert [m["prediction"]["predictionId"] for m in await nothing_more(client)] == ["p2"]
        assert push.hub.watched("prediction:p1") == 0


async def test_closing_lets_go_of_everything() -> None:
    """A session that is gone is in no list."""
    async with pushing() as push:
        async with push.client() as client:
            await subscribe(client, predictions=["p1"])
            assert push.hub.watched("prediction:p1") == 1
        await eventually(lambda: len(push.sessions) == 0)
        assert push.hub.watched("prediction:p1") == 0


async def test_repeats_of_the_log_are_not_repeated() -> None:
    """A change that the log delivers twice is sent once, and an older one after it never."""
    async with pushing() as push, push.client() as client:
        await subscribe(client, predictions=["p1"])
        first = await push.change("p1", 1)
        second = await push.change("p1", 2)
        await push.announce(second, first, second)
        await push.change("p1", 3)
        assert versions(await nothing_more(client)) == [1, 2, 3]


async def test_a_batch_is_one_write_with_every_version() -> None:
    """Changes of one batch arrive each in its own frame, in order."""
    async with pushing() as push, push.client() as client:
        await subscribe(client, all=True)
        records = [await push.stand("p1", version) for version in range(1, 21)]
        await push.announce(*records)
        assert versions(await nothing_more(client)) == list(range(1, 21))


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        '{"type":"dance"}',
        '{"type":"subscribe"}',
        '{"type":"subscribe","predictions":["a"],"all":true}',
        '{"type":"subscribe","owner":5}',
        '{"type":"subscribe","all":true,"limit":10001}',
        '{"type":"subscribe","all":true,"known":{"a":"b"}}',
        "[" * 100_000,
        '{"type":"ping","x":' + "[" * 100_000,
    ],
    ids=[
        "half",
        "list",
        "type",
        "nothing",
        "two",
        "owner",
        "limit",
        "known",
        "deep",
        "deep-inside",
    ],
)
async def test_malformed_messages_close_with_4100(message: str) -> None:
    """A message that is not of the protocol closes the connection for good, and no other."""
    async with pushing() as push, push.client() as other, push.client() as client:
        await client.send(message)
        assert (await closed(client))[0] == 4100
        assert await nothing_more(other)


async def test_a_bad_id_is_an_error_and_the_connection_stays() -> None:
    """An id that can name no prediction is refused with `error`."""
    async with pushing() as push, push.client() as client:
        await hear(client)
        await say(client, type="subscribe", ref=3, predictions=["a b"])
        heard = await hear(client)
        assert (heard["type"], heard["ref"], heard["code"]) == ("error", 3, "invalid")
        assert await nothing_more(client) == []


async def test_too_many_subscriptions() -> None:
    """More subscriptions than a session may have close it with 4104."""
    async with pushing(limits=SessionLimits(subscriptions=3)) as push, push.client() as client:
        await subscribe(client, predictions=["a", "b", "c"])
        await say(client, type="subscribe", predictions=["d"])
        assert (await closed(client))[0] == 4104


async def test_ten_thousand_subscriptions_in_one_message() -> None:
    """As many predictions as fit into a message can be named at once."""
    async with pushing() as push, push.client(max_size=None) as client:
        names = [f"p{number}" for number in range(10_000)]
        heard = await subscribe(client, predictions=names)
        assert len(heard) == 10_002
        await push.change("p9999", 1)
        assert versions([await hear(client)]) == [1]


async def test_the_store_of_a_stale_cache_is_asked() -> None:
    """Where the cache is older than what the client knows, the store is read."""
    async with pushing() as push, push.client() as client:
        await push.stand("p1", 1)
        stale = push.store.peek("p1")
        assert stale is not None
        await push.stand("p1", 3)
        push.store.clear()
        push.store.put("p1", stale)
        assert versions(
            await subscribe(client, predictions=["p1"], known={"p1": 2}), "snapshot"
        ) == [3]


# Tokens


async def test_the_first_message_brings_the_token() -> None:
    """Without a header the client is welcomed after `auth`, and what it sent behind it is served in order."""
    tokens = Tokens({"good": Permissions(subject="o")})
    async with pushing(authenticator=tokens) as push, push.client() as client:
        await say(client, type="auth", token="good")
        await say(client, type="subscribe", ref=1, owner="o")
        await say(client, type="subscribe", ref=2, owner="stranger")
        heard = [await hear(client) for _ in range(4)]
        assert [m["type"] for m in heard[:2]] == ["welcome", "subscribed"]
        assert {m["type"]: m["ref"] for m in heard[2:]} == {"synced": 1, "error": 2}


async def test_a_header_brings_the_token() -> None:
    """A bearer token in the handshake's headers is enough."""
    tokens = Tokens({"good": Permissions(subject="o")})
    async with pushing(authenticator=tokens) as push:
        async with push.client(additional_headers={"Authorization": "Bearer good"}) as client:
            assert (await hear(client))["type"] == "welcome"
        async with push.client(additional_headers={"Authorization": "Bearer bad"}) as client:
            assert await closed(client) == (4102, "no such token")


async def test_a_token_that_gives_nothing_is_told_so() -> None:
    """A genuine token without any right ends the connection with the reason, at first and as a renewal."""
    tokens = TokenAuthenticator([Hs256Tokens(SECRET, RequiredClaims())])
    soon = {"exp": time.time() + 60}
    bare = jwt.encode({"scope": "openid", **soon}, SECRET, algorithm="HS256")
    good = jwt.encode({"sub": "o", **soon}, SECRET, algorithm="HS256")
    async with pushing(authenticator=tokens) as push:
        async with push.client() as client:
            await say(client, type="auth", token=bare)
            code, reason = await closed(client)
            assert code == 4102
            assert "gives no right" in reason
        async with push.client() as client:
            await say(client, type="auth", token=good)
            assert (await hear(client))["type"] == "welcome"
            await say(client, type="auth", token=bare)
            assert (await closed(client))[0] == 4102


async def test_without_a_token_nothing_is_served() -> None:
    """Messages before the token, a wrong one, and silence end the connection."""
    limits = SessionLimits(authentication=0.2, heartbeat=5.0)
    async with pushing(authenticator=Tokens({}), limits=limits) as push:
        async with push.client() as client:
            await say(client, type="subscribe", all=True)
            assert (await closed(client))[0] == 4101
        async with push.client() as client:
            await say(client, type="auth", token="bad")
            assert (await closed(client))[0] == 4102
        async with push.client() as client:
            assert (await closed(client))[0] == 4101


async def test_what_may_not_be_seen_does_not_exist() -> None:
    """A stranger's prediction is `unknown`, its changes are left out, and wide subscriptions are forbidden."""
    tokens = Tokens({"good": Permissions(subject="o")})
    async with pushing(authenticator=tokens) as push, push.client() as client:
        await push.change("theirs", 1, owner="x")
        await push.change("mine", 1, owner="o")
        await say(client, type="auth", token="good")
        heard = await subscribe(client, predictions=["theirs", "mine", "later"])
        assert [m["type"] for m in heard] == [
            "subscribed",
            "unknown",
            "snapshot",
            "unknown",
            "synced",
        ]
        for watch in ({"owner": "x"}, {"tag": "t"}, {"model": "m"}, {"all": True}):
            await say(client, type="subscribe", ref=1, **watch)
            assert (await hear(client))["code"] == "forbidden"
        await push.change("theirs", 2, owner="x")
        await push.change("later", 1, owner="x")
        await push.change("mine", 2, owner="o")
        assert [m["prediction"]["predictionId"] for m in await nothing_more(client)] == ["mine"]


async def test_a_stranger_who_knows_learns_nothing() -> None:
    """A known prediction of a stranger's looks like one that is gone, at the version the client named."""
    tokens = Tokens({"good": Permissions(subject="o")})
    async with pushing(authenticator=tokens) as push, push.client() as client:
        await push.change("theirs", 7, owner="x")
        await say(client, type="auth", token="good")
        heard = await subscribe(
            client, predictions=["theirs", "nowhere"], known={"theirs": 3, "nowhere": 3}
        )
        assert [(m["type"], m.get("version")) for m in heard[1:-1]] == [
            ("deleted", 3),
            ("deleted", 3),
        ]


async def test_nobodys_records_stay_hidden_behind_a_tag() -> None:
    """A claim on a tag shows the tag's records, but not those without an owner."""
    tokens = Tokens({"good": Permissions(subject="o", tags=frozenset({"t"}))})
    async with pushing(authenticator=tokens) as push, push.client() as client:
        await push.change("nobodys", 1, tags=("t",))
        await push.change("theirs", 1, owner="x", tags=("t",))
        await say(client, type="auth", token="good")
        heard = await subscribe(client, tag="t")
        assert [m["prediction"]["predictionId"] for m in heard if m["type"] == "snapshot"] == [
            "theirs"
        ]
        await push.change("nobodys", 2, tags=("t",))
        await push.change("theirs", 2, owner="x", tags=("t",))
        assert [m["prediction"]["predictionId"] for m in await nothing_more(client)] == ["theirs"]


async def test_an_expired_token_ends_the_connection_unless_renewed() -> None:
    """At expiry the connection is closed with 4102; a newer token on the open connection prevents it."""
    clock = ManualClock(1_000_000)
    tokens = Tokens(
        {
            "short": Permissions(subject="o", expires_at=1010.0),
            "long": Permissions(subject="o", expires_at=1100.0),
        }
    )
    limits = SessionLimits(heartbeat=2.0)
    gateway = pushing(authenticator=tokens, limits=limits, clock=clock)
    async with gateway as push, push.client() as lazy, push.client() as keen:
        await say(lazy, type="auth", token="short")
        await say(keen, type="auth", token="short")
        await subscribe(keen, owner="o")
        await say(keen, type="auth", token="long")
        assert await nothing_more(keen) == []
        clock.now_ms = 1_011_000
        assert await closed(lazy) == (4102, "the token has expired")
        await push.change("p1", 1, owner="o")
        assert versions([await hear(keen)]) == [1]


async def test_a_narrower_token_ends_what_it_does_not_cover() -> None:
    """A renewal with less ends the wide subscriptions beyond it, and asks again about named predictions."""
    tokens = Tokens(
        {"wide": Permissions(scopes=frozenset({"watch:all"})), "narrow": Permissions(subject="o")}
    )
    async with pushing(authenticator=tokens) as push, push.client() as client:
        await say(client, type="auth", token="wide")
        await subscribe(client, all=True)
        await subscribe(client, owner="o")
        await subscribe(client, predictions=["theirs", "mine"])
        await say(client, type="auth", token="narrow")
        assert (await hear(client))["code"] == "forbidden"
        for version in (1, 2):
            await push.change("theirs", version, owner="x")
            await push.change("mine", version, owner="o")
            await push.change("other", version, owner="x")
        heard = await nothing_more(client)
        assert [m["prediction"]["predictionId"] for m in heard] == ["mine", "mine"]


# Slow clients


async def stuffed(push: Push, messages: int) -> None:
    """Fill the connection of a client that does not read, until the gateway keeps the newest only."""
    for version in range(1, messages + 1):
        await push.change("filler", version, logs="x" * 200_000)
    await eventually(
        lambda: any(c.session.backed_up for group in push.sessions._groups for c in group)
    )


async def test_a_client_that_does_not_read_gets_the_newest() -> None:
    """While a client reads nothing its pending changes are replaced by newer ones, and the end is never lost."""
    async with pushing() as push, push.client(max_queue=1, max_size=None) as client:
        await subscribe(client, all=True)
        client.transport.pause_reading()
        await stuffed(push, 60)
        for number in range(50):
            for version in (1, 2, 3):
                await push.change(f"p{number}", version)
        await push.change("filler", 61, status=Status.SUCCEEDED)
        await push.delete("p0", 4)
        client.transport.resume_reading()
        newest: dict[str, int] = {}
        while newest.get("filler") != 61 or newest.get("p49") != 3 or newest.get("p0") != 4:
            message = await hear(client)
            record = message.get("prediction", message)
            assert record["version"] > newest.get(record["predictionId"], 0)
            newest[record["predictionId"]] = record["version"]
        await eventually(lambda: push.sessions.conflated > 0)
        assert all(newest[f"p{number}"] == 3 for number in range(1, 50))


async def test_beyond_the_bounds_records_are_read_when_there_is_room() -> None:
    """What a session may not keep is read again from the store, deletions included."""
    limits = SessionLimits(pending_records=5)
    async with pushing(limits=limits) as push, push.client(max_queue=1, max_size=None) as client:
        await subscribe(client, all=True)
        client.transport.pause_reading()
        await stuffed(push, 60)
        for number in range(40):
            await push.change(f"p{number}", 1)
        for number in range(40):
            await push.change(f"p{number}", 2)
        await push.delete("p7", 3)
        client.transport.resume_reading()
        newest: dict[str, int] = {}
        while (
            len(newest) < 41
            or newest["p7"] != 3
            or any(newest[f"p{number}"] < 2 for number in range(40))
        ):
            message = await hear(client)
            record = message.get("prediction", message)
            assert record["version"] > newest.get(record["predictionId"], 0)
            newest[record["predictionId"]] = record["version"]
        assert await nothing_more(client) == []


async def test_nothing_getting_through_closes_with_4000() -> None:
    """A client to which nothing got through for the limit is closed; the others never notice."""
    limits = SessionLimits(progress=0.5, heartbeat=5.0)
    async with (
        pushing(limits=limits) as push,
        push.client(max_queue=1, max_size=None) as client,
        push.client() as other,
    ):
        await subscribe(client, all=True)
        await subscribe(other, predictions=["p1"])
        client.transport.pause_reading()
        await stuffed(push, 60)
        await eventually(lambda: push.sessions.closed.get(4000) == 1)
        client.transport.resume_reading()
        assert (await closed(client))[0] == 4000
        await push.change("p1", 1)
        assert versions([await hear(other)]) == [1]


async def test_a_snapshot_waits_for_a_slow_reader() -> None:
    """Snapshots of more than the connection takes are sent as it takes them, and all arrive."""
    async with pushing() as push, push.client(max_queue=1, max_size=None) as client:
        for number in range(60):
            await push.stand(f"p{number}", 1, logs="x" * 200_000)
        client.transport.pause_reading()
        await say(client, type="subscribe", all=True)
        await eventually(
            lambda: any(c.session.backed_up for group in push.sessions._groups for c in group)
        )
        client.transport.resume_reading()
        heard = await hear_until(client, "synced")
        assert len(versions(heard, "snapshot")) == 60


# The connection's life


@pytest.mark.lean
async def test_a_silent_client_is_closed_with_4001() -> None:
    """A connection that answers no ping is closed; one that answers stays."""
    limits = SessionLimits(heartbeat=0.5)
    async with pushing(limits=limits) as push, push.client() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", push.port)
        writer.write(
            b"GET /api/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        async with asyncio.timeout(10):
            everything = await reader.read()
        assert b"\x88" in everything
        assert (4001).to_bytes(2, "big") in everything
        writer.close()
        await hear(client)
        assert await nothing_more(client) == []


@pytest.mark.lean
async def test_bye_spreads_the_return() -> None:
    """A shutdown says `bye` with a time to come back, closes with 1012, and takes nobody new."""
    async with pushing() as push, push.client() as client:
        await hear(client)
        began = time.monotonic()
        closing = asyncio.create_task(push.listener.close(2.0, 3.0))
        bye = await hear(client)
        assert bye["type"] == "bye"
        assert 0 <= bye["retryAfter"] <= 2000
        assert (await closed(client))[0] == 1012
        await closing
        assert time.monotonic() - began < 3.5
        with pytest.raises(ConnectionRefusedError):
            async with push.client():
                pass


async def test_bye_spreads_many_returns() -> None:
    """Each client gets a time of its own, over all of the spread, so that they do not come back together."""
    async with pushing() as push, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(push.client()) for _ in range(40)]
        for client in clients:
            await hear(client)
        closing = asyncio.create_task(push.listener.close(10.0, 3.0))
        times = [(await hear(client))["retryAfter"] for client in clients]
        await closing
    assert len(set(times)) > 30
    assert max(times) - min(times) > 5_000
    assert max(times) <= 10_000


async def test_a_refused_handshake_is_an_http_answer() -> None:
    """What the application does not admit is refused with its problem."""
    async with pushing(admit=lambda headers, peer: forbidden("not from there")) as push:
        with pytest.raises(InvalidStatus) as caught:
            async with push.client():
                pass
        assert caught.value.response.status_code == 403
        assert json.loads(caught.value.response.body)["detail"] == "not from there"


async def test_one_too_many_is_closed_with_4104() -> None:
    """A limit on connections is told by a close code; whoever admitted a connection hears when it is gone."""
    inside: list[str] = []

    def admit(headers: Mapping[str, str], peer: str) -> Callable[[], None] | Problem:
        if inside:
            return Problem(429, "too-many", "Too many", "Open fewer connections.")
        inside.append(peer)
        return inside.clear

    async with pushing(admit=admit) as push:
        async with push.client() as first:
            await hear(first)
            async with push.client() as second:
                assert (await closed(second))[0] == 4104
            assert inside == ["127.0.0.1"]
        await eventually(lambda: not inside)


async def test_another_subprotocol_is_refused() -> None:
    """A client that speaks only other subprotocols gets 400; one that names none is served."""
    async with pushing() as push:
        with pytest.raises(InvalidStatus) as caught:
            async with push.client(subprotocols=["chat.v9"]):
                pass
        assert caught.value.response.status_code == 400
        async with push.client(subprotocols=None) as client:
            assert (await hear(client))["type"] == "welcome"


async def test_what_comes_after_the_end_is_dropped() -> None:
    """Once a client has ended its side, or is closed, changes go nowhere, and nothing fails."""
    async with pushing() as push, push.client() as client, push.client() as other:
        for one in (client, other):
            await subscribe(one, all=True, snapshot=False)
        groups = push.sessions._groups
        both = [one for group in groups for one in group if isinstance(one, WebSocketConnection)]
        into = [one._transport.write for one in both if one._transport is not None]
        assert [one.write for one in both] == into
        both[0].eof_received()
        both[1].close(1012)
        await push.change("p1", 1)
        assert not any(one.write in into for one in both)
