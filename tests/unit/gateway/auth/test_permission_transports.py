"""The table of permissions over every transport: nothing of a stranger's record is in any answer, frame or log line."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import jwt
import pytest
import structlog
from websockets.asyncio.client import ClientConnection, connect

from tests.support.conditions import eventually
from tests.support.gateway.pushing import hear, hear_until, nothing_more, say, subscribe
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tests.unit.gateway.auth.test_permissions import CALLERS, SECRET, TABLE
from tidings.gateway.api import sse
from tidings.gateway.auth.tokens import ApiKeys, Hs256Tokens, RequiredClaims, TokenAuthenticator
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Prediction
from tidings.streams.rules import large_fields as blobs

pytestmark = pytest.mark.doors

CONTENT = "nobody else's content"
HASH = "sha256-" + "ab" * 32
RECORD: dict[str, Any] = {"owner": "ann", "model": "m", "tags": ["t"], "prompt": CONTENT}
WATCHES: dict[str, dict[str, Any]] = {
    "owner": {"owner": "ann"},
    "tag": {"tag": "t"},
    "model": {"model": "m"},
    "all": {"all": True},
}
WIDE: dict[str, set[str]] = {
    "owner": {"owner", "listed owner", "watch:all", "API key", "admin"},
    "tag": {"listed tag", "watch:all", "API key", "admin"},
    "model": {"listed model", "watch:all", "API key", "admin"},
    "all": {"watch:all", "API key", "admin"},
}
API_KEY = "a key of forty characters and a few more"
"""Has the rights that the table says of API keys, without any claims."""
SEES = TABLE["read"]
WATCHES_IT = TABLE["watch"]


class Taker:
    """Stands for a provider; takes every order."""

    def refusal(self, provider: str) -> str | None:
        return None

    def model_refusal(self, provider: str, model: str) -> str | None:
        return None

    def stream_refusal(self, provider: str) -> str | None:
        return None

    async def submit(self, record: Prediction) -> None:
        """Take it."""


def token(caller: str, **more: Any) -> str:
    if caller == "API key":
        return API_KEY
    return jwt.encode(
        {"exp": time.time() + 60, **CALLERS[caller], **more}, SECRET, algorithm="HS256"
    )


class Caller:
    """One caller, on every transport; keeps all that it was ever told."""

    def __init__(self, service: SmallService, name: str) -> None:
        self.service = service
        self.name = name
        self.headers = {"Authorization": f"Bearer {token(name)}"}
        self.client = httpx.AsyncClient(base_url=service.url, headers=self.headers, timeout=20)
        self.told: list[str] = []

    async def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """One request."""
        answer = await self.client.request(method, path, **how)
        self.told.append(f"{answer.headers} {answer.text}")
        return answer

    async def stream(self, path: str, until: str, how_many: int = 1) -> str:
        """What a stream says until this event came so often, or it ends."""
        heard = ""
        async with asyncio.timeout(20), self.client.stream("GET", path) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return str(answer.status_code)
            async for piece in answer.aiter_text():
                heard += piece
                self.told.append(piece)
                if heard.count(f"event: {until}\n") >= how_many:
                    break
        return heard

    def socket(self) -> connect:
        """A WebSocket with this caller's token."""
        return connect(
            self.service.ws_url, subprotocols=["tidings.v1"], additional_headers=self.headers, compression=None  # type: ignore[list-item]
        )  # fmt: skip


@contextlib.asynccontextmanager
async def calling(name: str) -> AsyncIterator[Caller]:
    objects = ObjectStorage("memory://")
    await objects.put(blobs.path("p1", HASH), json.dumps(CONTENT).encode())
    settings: dict[str, Any] = {
        "authenticator": TokenAuthenticator(
            [ApiKeys((API_KEY,)), Hs256Tokens(SECRET, RequiredClaims())]
        ),
        "submitter": Taker(),
        "objects": objects,
    }
    async with small_service(**settings) as service:
        await service.put(prediction("p1", **RECORD))
        caller = Caller(service, name)
        async with caller.client:
            yield caller


@pytest.mark.parametrize("name", CALLERS)
async def test_reading(name: str) -> None:
    """GET, the long poll, fields, lists and large fields show the record to those who may read it, and else 404."""
    async with calling(name) as caller:
        sees = name in SEES
        for path in (
            "/api/predictions/p1",
            "/api/predictions/p1?fields=prompt",
            f"/api/predictions/p1/blobs/{HASH}",
        ):
            answer = await caller.ask("GET", path)
            assert answer.status_code == (200 if sees else 404), path
            assert (CONTENT in answer.text) == sees, path
        stale = {"If-None-Match": '"2"'}
        assert (await caller.ask("GET", "/api/predictions/p1", headers=stale)).status_code == (
            304 if sees else 404
        )
        for query in ("", "?owner=ann", "?model=m", "?tag=t", "?status=processing", "?limit=1"):
            answer = await caller.ask("GET", "/api/predictions" + query)
            assert answer.status_code == 200, answer.text
            assert ([one["predictionId"] for one in answer.json()["data"]] == ["p1"]) == sees, query
        absent = await caller.ask("GET", "/api/predictions/p2")
        if not sees:
            answer = await caller.ask("GET", "/api/predictions/p1")
            assert answer.content == absent.content.replace(b"p2", b"p1")
            assert not any(CONTENT in told for told in caller.told)


@pytest.mark.parametrize("name", CALLERS)
async def test_waiting_for_the_next_change(name: str) -> None:
    """The long poll brings the next change to those who may read it; to others it is as if nothing were there."""
    async with calling(name) as caller:
        waits = {"If-None-Match": '"2"', "Prefer": "wait=20"}
        asking = asyncio.create_task(caller.ask("GET", "/api/predictions/p1", headers=waits))
        if name not in SEES:
            answer = await asking  # at once, and before any change
            absent = await caller.ask("GET", "/api/predictions/p2", headers=waits)
            assert (answer.status_code, answer.content) == (
                404,
                absent.content.replace(b"p2", b"p1"),
            )
            assert not any(CONTENT in told for told in caller.told)
            return
        await eventually(lambda: bool(caller.service.reader._waiters))
        await caller.service.put(prediction("p1", **RECORD, version=3))
        answer = await asking
        assert (answer.status_code, answer.headers["ETag"]) == (200, '"3"')
        assert CONTENT in answer.text


@pytest.mark.parametrize("name", ["owner", "read:all", "API key", "admin"])
async def test_a_change_of_hands_while_waiting(name: str) -> None:
    """A prediction that is deleted and made anew for a stranger ends the wait with 404 for whom it is not."""
    async with calling(name) as caller:
        waits = {"If-None-Match": '"2"', "Prefer": "wait=20"}
        asking = asyncio.create_task(caller.ask("GET", "/api/predictions/p1", headers=waits))
        await eventually(lambda: bool(caller.service.reader._waiters))
        await caller.service.put(prediction("p1", owner="zoe", prompt="of zoe", version=9))
        answer = await asking
        assert answer.status_code == (404 if name == "owner" else 200)
        assert ("of zoe" in answer.text) == (name != "owner")


@pytest.mark.parametrize("name", CALLERS)
async def test_writing(name: str) -> None:
    """PATCH, cancel and DELETE are for those whom the table names; others get 403 where they see it, and else 404."""
    async with calling(name) as caller:
        refused = 403 if name in SEES else 404
        for right, method, path, good, body in (
            ("patch", "PATCH", "/api/predictions/p1", 200, {"progress": 0.5}),
            ("cancel", "POST", "/api/predictions/p1/cancel", 202, None),
            ("delete", "DELETE", "/api/predictions/p1", 204, None),
        ):
            answer = await caller.ask(method, path, json=body)
            assert answer.status_code == (good if name in TABLE[right] else refused), (
                right,
                answer.text,
            )
            absent = await caller.ask(method, path.replace("p1", "p2"), json=body)
            if refused == 404 and name not in TABLE[right]:
                assert absent.status_code == 404
                assert answer.content == absent.content.replace(b"p2", b"p1")
        if name not in SEES:
            assert not any(CONTENT in told for told in caller.told)


@pytest.mark.parametrize("name", CALLERS)
async def test_creating(name: str) -> None:
    """A prediction is created for oneself, and for others with the right to write; a taken id says nothing of its record."""
    async with calling(name) as caller:
        order = {"provider": "replicate", "model": "m"}
        subject = CALLERS[name].get("sub")
        own = await caller.ask("POST", "/api/predictions", json={**order, "predictionId": "own"})
        assert own.status_code == (
            201 if subject or name in {"write", "API key", "admin"} else 403
        ), own.text
        other = await caller.ask(
            "POST", "/api/predictions", json={**order, "predictionId": "other", "owner": "zoe"}
        )
        assert other.status_code == (201 if name in TABLE["create other"] else 403), other.text
        taken = await caller.ask("POST", "/api/predictions", json={**order, "predictionId": "p1"})
        assert taken.status_code == (409 if own.status_code == 201 else 403)
        assert CONTENT not in taken.text


@pytest.mark.parametrize("name", CALLERS)
async def test_the_operators_part(name: str) -> None:
    """Dead letters and statistics are for admins; everybody else gets 403."""
    async with calling(name) as caller:
        status = 200 if name == "admin" else 403
        assert (await caller.ask("GET", "/api/dead-letters")).status_code == status
        assert (
            await caller.ask("POST", "/api/dead-letters/redrive", json={"all": True})
        ).status_code == status
        assert (await caller.ask("GET", "/api/stats")).status_code == status


@pytest.mark.parametrize("name", CALLERS)
async def test_watching_by_websocket(name: str) -> None:
    """Snapshots and changes come to those who may watch; for others the prediction is unknown, and wide ones forbidden."""
    async with calling(name) as caller, caller.socket() as socket:
        heard = [await hear(socket)]
        heard += await subscribe(socket, ref=1, predictions=["p1"])
        assert kinds(heard)[2] == ("snapshot" if name in WATCHES_IT else "unknown")
        heard += await told_of_a_change(caller, socket, 3)
        assert ("change" in kinds(heard)) == (name in WATCHES_IT)
        await say(socket, type="unsubscribe", predictions=["p1"])
        for kind, watch in WATCHES.items():
            await say(socket, type="subscribe", ref=kind, **watch)
            allowed = name in WIDE[kind]
            heard += await hear_until(socket, "synced" if allowed else "error")
            assert heard[-1].get("code") == (None if allowed else "forbidden"), kind
            await say(socket, type="unsubscribe", **watch)
        if name not in WATCHES_IT:
            assert CONTENT not in json.dumps(heard)


@pytest.mark.parametrize("name", CALLERS)
async def test_watching_by_event_stream(name: str) -> None:
    """On event streams the same holds."""
    async with calling(name) as caller:
        watches = name in WATCHES_IT
        first = "snapshot" if watches else "unknown"
        for path in ("/api/predictions/p1/events", "/api/events?predictions=p1"):
            heard = await caller.stream(path, first)
            assert (CONTENT in heard) == watches
        for kind, query in (
            ("owner", "owner=ann"),
            ("tag", "tag=t"),
            ("model", "model=m"),
            ("all", "all=true"),
        ):
            heard = await caller.stream("/api/events?" + query, "synced")
            allowed = name in WIDE[kind]
            assert (heard == "403") != allowed, heard
            assert (CONTENT in heard) == allowed
        if not watches:
            assert not any(CONTENT in told for told in caller.told)


@pytest.mark.parametrize("name", CALLERS)
async def test_changes_on_event_streams(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change comes on every stream to those who may watch it; on nobody else's there is so much as an id."""
    monkeypatch.setattr(sse, "PING_EVERY", 0.2)
    async with calling(name) as caller:
        watches = name in WATCHES_IT
        for version, path in (
            (3, "/api/predictions/p1/events"),
            (4, "/api/events?predictions=p1,p2"),
        ):
            async with asyncio.timeout(20), caller.client.stream("GET", path) as answer:
                pieces = answer.aiter_text()
                await read_until(pieces, "event: synced")
                await caller.service.put(prediction("p1", **RECORD, version=version))
                await eventually(partial(announced, caller.service, version))
                # The second comment has been written after the change.
                heard = await read_until(pieces, "event: change" if watches else ":\n\n:\n\n")
            assert ("event: change" in heard) == watches
            assert (CONTENT in heard) == watches


def announced(service: SmallService, version: int) -> bool:
    return service.hub.version("p1") == version


async def read_until(pieces: AsyncIterator[str], mark: str) -> str:
    """What a stream says up to the mark."""
    heard = ""
    while mark not in heard:
        heard += await anext(pieces)
    return heard


async def told_of_a_change(
    caller: Caller, socket: ClientConnection, version: int
) -> list[dict[str, Any]]:
    """What the client hears when the record changes, up to a change that everybody may see."""
    service = caller.service
    deliveries = service.reader.changes
    await service.put(prediction("p1", **RECORD, version=version))
    await eventually(lambda: service.reader.changes > deliveries)
    return await nothing_more(socket)


def kinds(heard: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in heard]


async def test_a_change_of_owner_is_seen_by_whom_it_belongs_to() -> None:
    """A watched id that becomes a stranger's, after a deletion, is left out without a word, and back it comes."""
    async with calling("stranger") as caller, caller.socket() as socket:
        await hear(socket)
        await subscribe(socket, predictions=["p2"])
        for version, owner in ((1, "ann"), (2, "ann")):
            await caller.service.put(prediction("p2", owner=owner, version=version, prompt=CONTENT))
        await caller.service.put(prediction("p3", owner="bob", version=1))
        await subscribe(socket, predictions=["p3"])
        assert CONTENT not in json.dumps(await nothing_more(socket))


async def test_what_waits_for_a_slow_reader_is_judged_by_the_newer_token() -> None:
    """A renewal with less takes what is no longer covered out of the frames that wait, and out of every later one."""
    async with calling("stranger") as caller:
        service = caller.service
        headers = {"Authorization": f"Bearer {token('watch:all')}"}
        options: dict[str, Any] = {"max_queue": 1, "max_size": None, "compression": None}
        async with connect(service.ws_url, additional_headers=headers, **options) as socket:
            await subscribe(socket, all=True)
            socket.transport.pause_reading()
            version = 2
            while not service.sessions.backlog()[0]:
                version += 1
                await service.put(
                    prediction("filler", owner="bob", version=version, logs="x" * 200_000)
                )
                await asyncio.sleep(0)
            await service.put(prediction("p1", **RECORD, version=3))
            await service.put(prediction("mine", owner="bob", version=3))
            await eventually(lambda: service.sessions.backlog()[1] >= 3)
            # A backed-up session is not read, so the token comes as it would from one that drains just now.
            (session,) = [one.session for group in service.sessions._groups for one in group]
            session._renew(await caller_permissions("stranger"))
            socket.transport.resume_reading()
            heard = await nothing_more(socket)
        assert CONTENT not in json.dumps(heard)
        assert "forbidden" in json.dumps(heard)


async def caller_permissions(name: str) -> Any:
    return await Hs256Tokens(SECRET, RequiredClaims()).authenticate(token(name))


async def test_logs_and_errors_hold_nothing_of_a_record() -> None:
    """What strangers provoke is logged without content and without tokens."""
    with structlog.testing.capture_logs() as lines:
        async with calling("stranger") as caller, caller.socket() as socket:
            for path in (
                "p1",
                "p1/events",
                f"p1/blobs/{HASH}",
                "%00",
                "p1?access_token=" + token("admin"),
            ):
                await caller.ask("HEAD", "/api/predictions/" + path)
            for message in ({"type": "subscribe", "all": True}, {"type": "auth", "token": "x.y.z"}):
                await say(socket, **message)
            with contextlib.suppress(Exception):
                while True:
                    caller.told.append(json.dumps(await hear(socket)))
    text = json.dumps(lines, default=str) + " ".join(caller.told)
    assert CONTENT not in text
    assert token("stranger").rpartition(".")[2] not in text
    assert "x.y.z" not in text
