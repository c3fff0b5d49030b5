"""Server-Sent Events over a real port."""

import asyncio
import contextlib
import gc
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import jwt
import pytest

from tests.support.conditions import eventually
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.api import sse
from tidings.gateway.auth.quotas import OwnerLimits, OwnerQuotas
from tidings.gateway.auth.rate_limits import TrustedProxies
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.gateway.http.server import Connection
from tidings.gateway.push.event_stream import event
from tidings.storage.errors import StoreUnavailable
from tidings.storage.prediction import Prediction, Tombstone, encode
from tidings.storage.store import Write
from tidings.streams.changes.codec import announcement
from tidings.streams.changes.text_codec import piece
from tidings.streams.log.protocol import CHANGES, TEXT, Position

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    async with (
        small_service(**settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client


def token(**claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")


class Stream:
    """Reads the events of one answer."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, str | None, Any]:
        """The next event: name, id, data."""
        name, identifier, data = "", None, []
        async with asyncio.timeout(15):
            async for line in self._lines:
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "id":
                    identifier = value
                elif field == "data":
                    data.append(value)
                elif not line and data:
                    return name, identifier, json.loads("\n".join(data))
        return "end", None, None

    async def all(self) -> list[str]:
        """The names of all events that are left."""
        names = []
        while (name := (await self.next())[0]) != "end":
            names.append(name)
        return names


@contextlib.asynccontextmanager
async def stream(
    client: httpx.AsyncClient, path: str, asked: object = None, **headers: str
) -> AsyncIterator[Stream]:
    method = "GET" if asked is None else "POST"
    async with client.stream(method, path, headers=headers, json=asked) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Stream(answer)


async def test_one_predictions_stream_ends_after_its_end() -> None:
    """Snapshot, synced, each change with its version as the id, and after a terminal state nothing."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        async with stream(client, "/api/predictions/p1/events") as events:
            assert events.answer.headers["content-type"] == "text/event-stream"
            name, identifier, data = await events.next()
            assert (name, identifier, data["type"]) == ("snapshot", "2", "snapshot")
            assert await events.next() == ("synced", None, {"type": "synced", "more": False})
            await client.patch("/api/predictions/p1", json={"progress": 0.5})
            name, identifier, data = await events.next()
            assert (name, identifier, data["prediction"]["progress"]) == ("change", "3", 0.5)
            await client.patch("/api/predictions/p1", json={"status": "succeeded"})
            name, identifier, data = await events.next()
            assert (name, identifier, data["prediction"]["status"]) == ("change", "4", "succeeded")
            assert await events.all() == []


async def test_last_event_id_is_what_the_client_knows() -> None:
    """A known version is not sent again; an older one gets a snapshot; the end, once known, is a 204 for good."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        async with stream(client, "/api/predictions/p1/events", **{"Last-Event-ID": "2"}) as events:
            assert (await events.next())[0] == "synced"
        async with stream(client, "/api/predictions/p1/events", **{"Last-Event-ID": "1"}) as events:
            assert (await events.next())[0] == "snapshot"
        await client.patch("/api/predictions/p1", json={"status": "failed", "error": "no"})
        async with stream(client, "/api/predictions/p1/events", **{"Last-Event-ID": "2"}) as events:
            assert await events.all() == ["snapshot", "synced"]
        answer = await client.get("/api/predictions/p1/events", headers={"Last-Event-ID": "3"})
        assert answer.status_code == 204


async def test_what_the_snapshot_showed_is_not_repeated() -> None:
    """A change that is announced after its record was read for the snapshot is no news; the next one is."""
    async with serving() as (service, client):
        written = prediction("p1", version=3)
        await service.store.store.write([Write(written, encode(written), 0)])
        async with stream(client, "/api/events?predictions=p1") as events:
            assert (await events.next())[2]["prediction"]["version"] == 3
            assert (await events.next())[0] == "synced"
            late = announcement(written, encode(written), position=Position(0, 0))
            await service.log.append(CHANGES, [late])
            await service.put(prediction("p1", version=4))
            assert (await events.next())[2]["prediction"]["version"] == 4


async def test_an_unknown_prediction_is_waited_for() -> None:
    """The stream of what does not exist yet says so, and begins with its first change."""
    async with (
        serving() as (service, client),
        stream(client, "/api/predictions/p1/events") as events,
    ):
        assert (await events.next())[2] == {"type": "unknown", "predictionId": "p1"}
        assert (await events.next())[0] == "synced"
        await service.put(prediction("p1"))
        assert (await events.next())[2]["prediction"]["predictionId"] == "p1"


async def test_a_deletion_is_told_and_ends_the_stream() -> None:
    """A client hears of a deletion, live or when it comes back knowing an older version."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        async with stream(client, "/api/predictions/p1/events", **{"Last-Event-ID": "2"}) as events:
            await events.next()
            await client.delete("/api/predictions/p1")
            assert await events.next() == (
                "deleted",
                "3",
                {"type": "deleted", "predictionId": "p1", "version": 3},
            )
            assert await events.all() == []
        async with stream(client, "/api/predictions/p1/events", **{"Last-Event-ID": "2"}) as events:
            assert (await events.next())[0] == "deleted"


async def test_several_predictions_and_an_owner_on_one_stream() -> None:
    """Named ones and all of an owner come on one stream, each change once."""
    async with serving() as (service, client):
        await service.put(prediction("a", owner="ann"))
        await service.put(prediction("b", owner="bob"))
        async with stream(client, "/api/events?predictions=b,c&owner=ann") as events:
            seen = [await events.next() for _ in range(4)]
            assert [name for name, _, _ in seen] == ["snapshot", "unknown", "snapshot", "synced"]
            assert seen[0][1] is None
            await service.put(prediction("b", owner="bob", version=3))
            await service.put(prediction("z", owner="zoe"))
            await service.put(prediction("d", owner="ann"))
            changes = [(await events.next())[2]["prediction"]["predictionId"] for _ in range(2)]
            assert changes == ["b", "d"]


async def test_a_limit_that_cuts_is_said() -> None:
    """`synced` says `more` when the snapshot was cut."""
    async with serving() as (service, client):
        for number in range(5):
            await service.put(prediction(f"p{number}"))
        async with stream(client, "/api/events?all=true&limit=3") as events:
            assert [(await events.next())[0] for _ in range(3)] == ["snapshot"] * 3
            assert (await events.next())[2] == {"type": "synced", "more": True}


@pytest.mark.parametrize(
    "query", ["", "?all=maybe", "?owner=a&tag=b", "?predictions=a%20b", "?all=true&limit=x"]
)
async def test_a_bad_stream_is_a_400(query: str) -> None:
    """What cannot be watched is refused with a remedy."""
    async with serving() as (_, client):
        answer = await client.get(f"/api/events{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"]


async def test_a_stranger_sees_nothing() -> None:
    """What one may not watch is unknown, stays silent when it changes, and says nothing of its end."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        await service.put(prediction("p1", owner="ann", prompt="secret"))
        await service.put(prediction("p2", owner="bob"))
        path = f"/api/events?predictions=p1,p2&access_token={token(sub='bob')}"
        async with stream(client, path) as events:
            assert [(await events.next())[0] for _ in range(3)] == ["unknown", "snapshot", "synced"]
            await service.put(prediction("p1", owner="ann", version=3))
            await service.put(prediction("p2", owner="bob", version=3))
            assert (await events.next())[2]["prediction"]["predictionId"] == "p2"
        await service.put(prediction("p1", owner="ann", version=4, status="failed"))
        headers = {"Last-Event-ID": "9", "Authorization": f"Bearer {token(sub='bob')}"}
        async with stream(client, "/api/predictions/p1/events", **headers) as events:
            assert (await events.next())[0] == "unknown"
        for query in ("owner=ann", "tag=t", "model=m", "all=true"):
            answer = await client.get(f"/api/events?{query}&access_token={token(sub='bob')}")
            assert answer.status_code == 403, query
        assert (await client.get("/api/events?owner=bob")).status_code == 401


async def test_a_stream_ends_when_its_token_does() -> None:
    """At the token's expiry the stream is over, whatever it watches."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        await service.put(prediction("p1", owner="ann"))
        path = f"/api/predictions/p1/events?access_token={token(sub='ann', exp=time.time() + 1.5)}"
        async with stream(client, path) as events:
            assert await events.all() == ["snapshot", "synced"]


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments go out while nothing happens."""
    monkeypatch.setattr(sse, "PING_EVERY", 0.05)
    async with serving() as (service, _):
        await service.put(prediction("p1"))
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET /api/predictions/p1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(15):
            for _ in range(2):
                await reader.readuntil(b"\r\n:\n\n\r\n")
        writer.close()


async def test_a_client_that_leaves_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub keeps nothing of a stream whose client has gone."""
    monkeypatch.setattr(sse, "PING_EVERY", 0.05)
    async with serving() as (service, client):
        async with stream(client, "/api/predictions/p1/events") as events:
            await events.next()
            assert service.hub.watched("prediction:p1") == 1
        await eventually(lambda: service.hub.watched("prediction:p1") == 0)


async def test_a_slow_reader_gets_the_newest() -> None:
    """A client that does not read for a while finds the newest of each prediction, the last state included."""
    async with serving() as (service, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
        writer.write(b"GET /api/events?all=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"synced")
        for version in range(2, 60):
            for number in range(5):
                await service.put(prediction(f"p{number}", version=version, logs="x" * 60_000))
        for number in range(5):
            await service.put(
                Tombstone(prediction_id=f"p{number}", deleted=True, version=99, updated_at=1)
            )
        read = 0
        tail = b""
        async with asyncio.timeout(30):
            while not all(b'"p%d","version":99' % number in tail for number in range(5)):
                data = await reader.read(65536)
                assert data
                read += len(data)
                tail = (tail + data)[-200_000:]
        writer.close()
    assert read < 58 * 5 * 60_000


async def test_a_store_that_fails_under_way_ends_the_stream() -> None:
    """The answer has begun by then: it is cut, so that the client comes back, and no second answer is mixed in."""
    async with serving() as (service, client):

        async def refuse(*_: object) -> None:
            raise StoreUnavailable("locked")

        service.store.store.list = refuse  # type: ignore[method-assign, assignment]
        received = b""
        async with client.stream("GET", "/api/events?all=true") as answer:
            with contextlib.suppress(httpx.RemoteProtocolError):
                async for data in answer.aiter_raw():
                    received += data
        assert b"HTTP/1.1" not in received
        await eventually(lambda: service.hub.watched("all") == 0)


async def test_one_address_has_so_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its number an address gets a 429, another does not, and it may open another when one is gone."""
    monkeypatch.setattr(sse, "PING_EVERY", 3_600)
    headers, other = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
    async with serving(trusted_proxies=TrustedProxies(["127.0.0.0/8"]), per_address=1) as (
        _,
        client,
    ):
        async with (
            stream(client, "/api/events?all=true", **headers),
            stream(client, "/api/events?all=true", **other),
        ):
            assert (await client.get("/api/events?all=true", headers=headers)).status_code == 429

        async def again() -> bool:
            return (await client.head("/api/events?all=true", headers=headers)).status_code == 200

        await eventually(again)


async def test_a_reader_that_is_gone_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its subscriptions and what it counts for end with the connection, and not with the next thing to write."""
    monkeypatch.setattr(sse, "PING_EVERY", 3_600)
    authenticator = Hs256Tokens(SECRET, RequiredClaims())
    headers = {"Authorization": f"Bearer {token(sub='ann')}"}
    async with serving(authenticator=authenticator) as (service, client):

        def free(key: str) -> bool:
            return service.hub.watched(key) == 0 and len(service.owners) == 0

        for path, key in (
            ("/api/predictions/p1/events", "prediction:p1"),
            ("/api/events?owner=ann", "owner:ann"),
        ):
            async with stream(client, path, **headers) as events:
                while (await events.next())[0] != "synced":
                    pass
                assert service.hub.watched(key) == 1
                assert len(service.owners) == 1
            await eventually(partial(free, key))


@pytest.mark.lean
async def test_a_machine_that_vanished_is_noticed() -> None:
    """The kernel ends a stream's connection once nothing is acknowledged for 45 s, and leaves other requests alone."""

    def limits() -> set[int]:
        transports = [
            one.transport for one in gc.get_objects() if issubclass(type(one), Connection)
        ]
        sockets = [one.get_extra_info("socket") for one in transports if one is not None]
        return {one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for one in sockets}

    async with serving() as (_, client):
        await client.get("/api/predictions/p1")
        assert limits() == {0}
        async with stream(client, "/api/events?all=true") as events:
            assert (await events.next())[0] == "synced"
            assert 45_000 in limits()


async def test_an_owners_streams_are_limited_with_its_websockets() -> None:
    """Streams count as connections and subscriptions of their owner; one too many is answered with 429."""
    authenticator = Hs256Tokens(SECRET, RequiredClaims())
    owners = OwnerQuotas(OwnerLimits(connections=2, subscriptions=3))
    ann = {"Authorization": f"Bearer {token(sub='ann')}"}
    bob = {"Authorization": f"Bearer {token(sub='bob')}"}

    async def status(path: str, headers: dict[str, str]) -> int:
        return (await client.head(path, headers=headers)).status_code

    async with serving(authenticator=authenticator, owners=owners) as (_, client):
        async with stream(client, "/api/events?predictions=a,b", **ann):
            assert await status("/api/events?predictions=c,d", ann) == 429
            assert await status("/api/events?predictions=c,d", bob) == 200
            async with stream(client, "/api/events?predictions=c", **ann):
                assert await status("/api/predictions/c/events", ann) == 429
        await eventually(lambda: len(owners) == 0)
        assert await status("/api/events?predictions=a,b,c", ann) == 200
        assert await status("/api/events?predictions=a,b,c,d", ann) == 429


async def test_line_breaks_in_a_record_stay_inside_the_data() -> None:
    """A payload that came with line breaks between its tokens cannot end an event, and comes out the same JSON."""
    raw = event(b"change", b'{"a":\r\n\r\n1,\n"b":"x"}')
    lines = raw.decode().split("\n")
    data = "\n".join(line.removeprefix("data: ") for line in lines if line.startswith("data: "))
    assert json.loads(data) == {"a": 1, "b": "x"}
    assert raw.count(b"\n\n") == 1
    assert b"\r" not in raw


async def test_streams_end_with_the_service() -> None:
    """At a shutdown clients are told when to come back, and the stream ends."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
        running = contextlib.AsyncExitStack()
        service = await running.enter_async_context(small_service())
        answer = await stack.enter_async_context(
            client.stream("GET", service.url + "/api/predictions/p1/events")
        )
        lines = answer.aiter_lines()
        async for line in lines:
            if line.startswith("event: synced"):
                break
        closing = asyncio.create_task(running.aclose())
        rest = [line async for line in lines]
        await closing
    assert any(line.startswith("retry: ") for line in rest)


async def test_what_one_may_not_see_is_as_what_never_was() -> None:
    """A stranger who claims to know a version hears the same of another's prediction as of none, deleted or not."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        await service.put(prediction("there", owner="ann"))
        await service.put(prediction("gone", owner="ann"))
        answer = await client.delete(
            "/api/predictions/gone", headers={"Authorization": f"Bearer {token(sub='ann')}"}
        )
        assert answer.status_code == 204

        async def first(prediction_id: str, subject: str) -> str:
            headers = {"Last-Event-ID": "2", "Authorization": f"Bearer {token(sub=subject)}"}
            path = f"/api/predictions/{prediction_id}/events"
            async with stream(client, path, **headers) as events:
                return (await events.next())[0]

        assert [await first(name, "bob") for name in ("there", "gone", "never")] == ["unknown"] * 3
        assert await first("gone", "ann") == "deleted"


@pytest.mark.parametrize("where", ["header", "query"])
async def test_a_browser_that_comes_back_after_the_end_is_told_to_stay_away(where: str) -> None:
    """`EventSource` connects again after each end: with the id of the last event it gets a 204, by which it stops."""

    async def ids(client: httpx.AsyncClient, known: str | None) -> list[str | None]:
        headers = {"Last-Event-ID": known} if known is not None and where == "header" else {}
        query = f"?lastEventId={known}" if known is not None and where == "query" else ""
        path = f"/api/predictions/p1/events{query}"
        async with client.stream("GET", path, headers=headers) as answer:
            if answer.status_code == 204:
                return []
            events, found = Stream(answer), []
            while (one := await events.next())[0] != "end":
                found.append(one[1])
            return [one for one in found if one is not None]

    async with serving() as (service, client):
        await service.put(prediction("p1", status="succeeded", version=4))
        assert await ids(client, None) == ["4"]
        assert await ids(client, "4") == []
        await client.delete("/api/predictions/p1")
        (told,) = await ids(client, "4")
        assert told == "5-deleted"
        assert await ids(client, told) == []


async def test_one_stream_takes_what_a_websocket_takes() -> None:
    """A posted list of subscriptions is answered by refs, with what is known and what is refused."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        for name in ("p1", "p2", "p3"):
            await service.put(prediction(name, owner="ann"))
        await service.put(prediction("b1", owner="bob"))
        subscriptions = [
            {"type": "subscribe", "ref": 1, "predictions": ["p1", "p2", "b1"], "known": {"p1": 2}},
            {"type": "subscribe", "ref": 2, "owner": "ann", "known": {"gone": 4}, "limit": 1},
            {"type": "subscribe", "ref": 3, "owner": "bob"},
            {"type": "subscribe", "ref": 4, "predictions": ["not an id"]},
            {"type": "subscribe", "ref": 5, "predictions": ["p2"], "snapshot": False},
        ]
        bearer = {"Authorization": f"Bearer {token(sub='ann')}"}
        async with stream(client, "/api/events", subscriptions, **bearer) as events:
            heard = [(await events.next())[2] for _ in range(9)]
            told = [(one["type"], one.get("ref"), one.get("predictionId")) for one in heard]
            assert told == [
                ("snapshot", None, None),
                ("unknown", None, "b1"),
                ("synced", 1, None),
                ("unknown", None, "gone"),
                ("snapshot", None, None),
                ("synced", 2, None),
                ("error", 3, None),
                ("error", 4, None),
                ("synced", 5, None),
            ]
            assert [heard[0]["prediction"]["predictionId"], heard[5]["more"]] == ["p2", True]
            await service.put(prediction("p1", owner="ann", version=3))
            await service.put(prediction("b1", owner="bob", version=3))
            await service.put(prediction("p3", owner="ann", version=3))
            for name in ("p1", "p3"):
                assert (await events.next())[2]["prediction"]["predictionId"] == name
        for wrong in ([{"type": "subscribe"}], {"type": "subscribe"}, [{"type": "ping"}]):
            answer = await client.post("/api/events", json=wrong, headers=bearer)
            assert answer.status_code == 400, wrong
        headers = {**bearer, "Content-Type": "application/json"}
        encoded = b'[{"type":"subscribe","predictions":["\xff"]}]'
        answer = await client.post("/api/events", content=encoded, headers=headers)
        assert answer.status_code == 400
        many = [{"type": "subscribe", "predictions": [f"p{n}" for n in range(10_001)]}]
        assert (await client.post("/api/events", json=many, headers=bearer)).status_code == 400


@pytest.mark.parametrize("name", ["lastEventId", "last-event-id"])
async def test_a_polyfill_says_what_it_knows_in_the_address(name: str) -> None:
    """What cannot be sent as a header counts in the query: the end is not told again and again."""
    async with serving() as (service, client):
        await service.put(prediction("p1", status="succeeded", version=3))
        path = f"/api/predictions/p1/events?{name}"
        assert (await client.get(f"{path}=3")).status_code == 204
        async with stream(client, f"{path}=2") as events:
            assert await events.all() == ["snapshot", "synced"]
        async with stream(client, f"{path}=x") as events:
            assert await events.all() == ["snapshot", "synced"]


async def test_a_stream_that_asked_gets_pieces() -> None:
    """With `text=append` what a text grows by comes as `append`, and a return with the last id has no gap."""
    record = prediction("p1", text="The quick", text_length=9)
    async with serving() as (service, client):
        await service.put(record)
        path = "/api/predictions/p1/events?text=append"
        async with stream(client, path) as events:
            assert (await events.next())[0] == "snapshot"
            assert (await events.next())[0] == "synced"
            await grow(service, record, b" brown", 9)
            name, identifier, data = await events.next()
            assert (name, identifier) == ("append", "2")
            assert (data["offset"], data["text"]) == (9, " brown")
        async with stream(client, path, **{"Last-Event-ID": "2"}) as events:
            assert (await events.next())[0] == "synced"
            assert (await events.next())[2]["text"] == " brown"
            await grow(service, record, b" fox", 15)
            name, _, data = await events.next()
            assert (name, data["offset"], data["text"]) == ("append", 15, " fox")


async def test_a_posted_subscription_may_ask_for_pieces() -> None:
    """`"text": "append"` in a posted subscription holds for the whole stream; a stream without it has none."""
    record = prediction("p1", text="The quick", text_length=9)
    asked = [{"type": "subscribe", "predictions": ["p1"], "text": "append"}]
    async with serving() as (service, client):
        await service.put(record)
        async with (
            stream(client, "/api/events", asked) as events,
            stream(client, "/api/events?predictions=p1") as whole,
        ):
            for one in (events, whole):
                assert (await one.next())[0] == "snapshot"
                assert (await one.next())[0] == "synced"
            await grow(service, record, b" brown", 9)
            assert (await events.next())[0] == "append"
            await service.put(prediction("p1", version=3, text="The quick brown", text_length=15))
            assert (await whole.next())[2]["prediction"]["text"] == "The quick brown"
        answer = await client.get("/api/events?predictions=p1&text=all")
        assert answer.status_code == 400


async def grow(service: SmallService, record: Prediction, more: bytes, before: int) -> None:
    """Announce a piece of `The quick brown fox`."""
    crc = zlib.crc32(b"The quick brown fox"[:before])
    said = piece(record, record.version, more, before=before, crc=crc, position=Position(0, 0))
    await service.log.append(TEXT, [said])
