"""Webhooks over a real port: proven, appended as they came, answered when that is durable."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import hmac
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.conditions import eventually
from tests.support.gateway.serving_thread import ServingThread
from tests.support.gateway.small_service import SmallService, small_service
from tests.support.providers.bodies import REPLICATE, SECRET, signed
from tidings.gateway.api.webhooks import MOST_INFLATED, token_proves, url_token
from tidings.gateway.http.held_bytes import HeldBytes, HeldLimits, Kind
from tidings.streams.log.factory import open_log
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, LogUnavailable, NewRecord, Position
from tidings.streams.log.sqlite.schema import connect
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.registry import open_providers
from tidings.streams.rules.event import Archive, Event, Poison

pytestmark = pytest.mark.doors

PROVIDERS = open_providers(
    {"replicate": Configuration(secret=(SECRET,)), "standard": Configuration(secret=(SECRET,))}
)
KEY = b"key of webhook URLs"
URL = "/api/webhooks/replicate"


def proven(body: bytes, **more: str) -> dict[str, str]:
    return {**signed(body, timestamp=int(time.time())), "content-type": "application/json", **more}


@contextlib.asynccontextmanager
async def serving(**more: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    parts: dict[str, Any] = {"providers": PROVIDERS, "webhook_key": KEY, **more}
    async with (
        small_service(**parts) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client


async def test_a_signed_webhook_is_appended_as_it_came() -> None:
    """The raw bytes are in the log when the answer says 200, with the stamps that translation needs."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(processing=False, archive=Archive.BEFORE) as (service, client):
        before = time.time() * 1000 - 1
        answer = await client.post(
            URL, content=REPLICATE, headers=proven(REPLICATE, traceparent=trace)
        )
        (record,) = await service.records()
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert record.value == REPLICATE
    assert record.key == b"vcscvthbaxrm80cq9xqtcbaw4m"
    headers = dict(record.headers)
    received = int(headers.pop("tidings-received"))
    assert before <= received <= time.time() * 1000
    assert headers == {
        "tidings-provider": b"replicate",
        "tidings-delivery": b"msg_1",
        "tidings-archive": b"before",
        "tidings-usage": b"2",
        "traceparent": trace.encode(),
    }


async def test_a_webhook_comes_out_of_the_read_exactly_as_it_came() -> None:
    """A seed over 2^53 and every string of the body are in the answer to GET, digit for digit."""
    async with serving() as (_, client):
        await client.post(URL, content=REPLICATE, headers=proven(REPLICATE))
        path = "/api/predictions/vcscvthbaxrm80cq9xqtcbaw4m"

        async def there() -> httpx.Response | None:
            answer = await client.get(path)
            return answer if answer.status_code == 200 else None

        answer = await eventually(there)
    assert answer is not None
    assert b'"seed":17454220438242315174' in answer.content
    record = answer.json()["data"]
    assert record["status"] == "succeeded"
    assert record["payload"] == json.loads(REPLICATE)["input"]
    assert [step["to"] for step in record["transitions"]] == ["starting", "processing", "succeeded"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"webhook-id": "a", "webhook-timestamp": "1"},
        signed(REPLICATE, timestamp=1_000_000_000),
        {**signed(REPLICATE), "webhook-timestamp": "soon"},
        {**signed(REPLICATE), "webhook-signature": "v1,!!!"},
        {**signed(REPLICATE), "webhook-signature": "v1,%FC%00"},
    ],
)
async def test_what_is_not_proven_is_refused(headers: Mapping[str, str]) -> None:
    """A webhook with a missing, stale, unparsable or wrong signature is a 401 with a remedy, and in no log."""
    async with serving() as (service, client):
        answer = await client.post(URL, content=REPLICATE, headers=dict(headers))
        assert await service.records() == []
    problem = answer.json()
    assert answer.status_code == problem["status"] == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "bad-signature"
    assert "secret" in problem["detail"]


async def test_an_unknown_provider_is_404() -> None:
    """A provider without a secret does not exist, whatever is sent to it."""
    async with serving() as (_, client):
        answer = await client.post("/api/webhooks/luma", content=b"{}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "unknown-provider"


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b"{}", b'{"id":7}', b'{"id":"a b","status":"x"}', b"\xff\xfe", b""]
)
async def test_well_signed_nonsense_is_kept_as_a_dead_letter(body: bytes) -> None:
    """What is proven and makes no sense is answered 200, since a retry would not help, and goes to the dead letters."""
    async with serving() as (service, client):
        answer = await client.post(URL, content=body, headers=proven(body))
        assert answer.status_code == 200
        (record,) = await service.records()
        assert record.key is None
        letters = await eventually(lambda: service.records(DEAD_LETTERS))
    assert letters[0].value == body


async def test_the_url_may_name_the_prediction_with_a_token() -> None:
    """With a valid token, in hex or base64url, the URL's id is the key; the body's own id is not asked for."""
    digest = hmac.new(KEY, b"mine", hashlib.sha256).digest()
    tokens = [url_token(KEY, "mine"), base64.urlsafe_b64encode(digest).decode().rstrip("=")]
    async with serving(processing=False) as (service, client):
        for token in tokens:
            answer = await client.post(
                f"{URL}/mine", params={"token": token}, content=REPLICATE, headers=proven(REPLICATE)
            )
            assert answer.status_code == 200
        assert [record.key for record in await service.records()] == [b"mine", b"mine"]


@pytest.mark.parametrize(
    "token", [None, "", "x", url_token(KEY, "other"), url_token(b"another key", "mine"), "\u00e9"]
)
async def test_a_wrong_url_token_is_refused(token: str | None) -> None:
    """A URL that names a prediction without its own token is a 401, however well the body is signed."""
    async with serving() as (service, client):
        answer = await client.post(
            f"{URL}/mine",
            params={} if token is None else {"token": token},
            content=REPLICATE,
            headers=proven(REPLICATE),
        )
        assert await service.records() == []
    assert answer.status_code == 401


def test_a_token_proves_one_prediction_alone() -> None:
    """The token of one id says nothing about another."""
    assert token_proves(KEY, "a", url_token(KEY, "a"))
    assert not token_proves(KEY, "b", url_token(KEY, "a"))


def deflated(body: bytes) -> bytes:
    """As some senders take `deflate`: without the frame of zlib."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
        ("deflate", zlib.compress),
        ("deflate", deflated),
        (None, gzip.compress),
        ("identity", gzip.compress),
    ],
)
@pytest.mark.parametrize("signed_as", ["sent", "written"])
async def test_a_compressed_webhook_is_understood(
    encoding: str | None, pack: Callable[[bytes], bytes], signed_as: str
) -> None:
    """The signature may be over the bytes as sent or, where a proxy compressed them, over those before."""
    packed = pack(REPLICATE)
    headers = proven(packed if signed_as == "sent" else REPLICATE)
    if encoding is not None:
        headers["content-encoding"] = encoding
    async with serving(processing=False) as (service, client):
        answer = await client.post(URL, content=packed, headers=headers)
        (record,) = await service.records()
    assert answer.status_code == 200, answer.text
    assert record.value == REPLICATE
    assert record.key == b"vcscvthbaxrm80cq9xqtcbaw4m"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", REPLICATE, 415),
        ("zstd", REPLICATE, 415),
        ("gzip, br", REPLICATE, 415),
        ("gzip", gzip.compress(b" " * 3_000_000), 413),
    ],
    ids=["br", "zstd", "two", "bomb"],
)
async def test_a_webhook_that_cannot_be_decompressed_is_refused(
    encoding: str, body: bytes, status: int
) -> None:
    """Another encoding and a bomb are each refused, and counted."""
    async with serving(processing=False, max_body=1_000_000) as (service, client):
        headers = proven(body, **{"content-encoding": encoding})
        answer = await client.post(URL, content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert service.webhook_counts.answers["replicate", status] == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "body",
    [REPLICATE, gzip.compress(REPLICATE)[:-9], gzip.compress(b"") * 100],
    ids=["plain", "cut", "many-members"],
)
async def test_a_proven_webhook_in_another_format_than_it_says_is_kept(
    encoding: str, body: bytes
) -> None:
    """A proxy may have undone the compression and left the header; what is not proven is a 401."""
    async with serving(processing=False) as (service, client):
        headers = proven(body, **{"content-encoding": encoding})
        answer = await client.post(URL, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        (record,) = await service.records()
        assert record.value == body
        answer = await client.post(
            URL, content=body, headers=proven(b"another", **{"content-encoding": encoding})
        )
        assert answer.status_code == 401, answer.text


async def test_an_unproven_bomb_is_decompressed_to_a_bounded_multiple() -> None:
    """What nobody has proven costs no more than a hundred times of what was sent."""
    bomb = gzip.compress(b" " * 900_000)
    async with serving(processing=False, max_body=1_000_000) as (_, client):
        headers = proven(b"another", **{"content-encoding": "gzip"})
        answer = await client.post(URL, content=bomb, headers=headers)
    assert len(bomb) * MOST_INFLATED < 900_000
    assert answer.status_code == 413


async def test_unsigned_bodies_are_not_held() -> None:
    """A body whose headers cannot prove it is refused before it comes; of others a bounded part is held."""
    limits = HeldLimits(process=400_000)
    async with serving(processing=False, held=HeldBytes(limits)) as (service, _):
        head = b"POST /api/webhooks/replicate HTTP/1.1\r\nHost: x\r\nContent-Length: 150000\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head + b"\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert answer.startswith(b"HTTP/1.1 401 ")
        writer.close()
        claims = "".join(f"{name}: {value}\r\n" for name, value in proven(b"other").items())
        writers = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(head + claims.encode() + b"\r\n" + b"x" * 140_000)
            writers.append(writer)
            await eventually(lambda: service.held.by_kind[Kind.UNPROVEN] >= 140_000)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert answer.startswith(b"HTTP/1.1 503 ")
        for writer in writers:
            writer.close()
        await eventually(lambda: service.held.total == 0)


@pytest.mark.parametrize(
    "path",
    [
        "/api/webhooks/replicate/",
        "//api/webhooks/replicate",
        "/api//webhooks/replicate",
        "/api/webhooks//replicate//",
    ],
)
async def test_a_slash_too_many_is_no_obstacle(path: str) -> None:
    """Addresses that were put together with one slash too many lead to the same route."""
    async with serving(processing=False) as (service, client):
        url = httpx.URL(service.url + URL).copy_with(raw_path=path.encode())
        answer = await client.post(url, content=REPLICATE, headers=proven(REPLICATE))
        assert answer.status_code == 200, answer.text
        token = url_token(KEY, "p1")
        url = url.copy_with(raw_path=f"/api/webhooks/replicate/p1/?token={token}".encode())
        answer = await client.post(url, content=REPLICATE, headers=proven(REPLICATE))
        assert answer.status_code == 200, answer.text
        _, named = await service.records()
    assert named.key == b"p1"


async def test_a_misaddressed_webhook_is_counted_and_logged() -> None:
    """A sender reads no answers: a webhook that no route takes shows in the metrics and in the log."""
    with capture_logs() as lines:
        async with serving(processing=False) as (service, client):
            for path in ("/webhooks/replicate", "/api/webhooks", "/api/webhooks/nobody"):
                answer = await client.post(path, content=REPLICATE, headers=proven(REPLICATE))
                assert answer.status_code == 404
            assert service.webhook_counts.refusals == {
                ("", "no-route"): 2,
                ("", "unknown-provider"): 1,
            }
    (line,) = [line for line in lines if line["event"] == "webhook.refused"]
    assert (line["code"], line["provider"]) == ("no-route", "unknown")


async def test_a_large_body_is_refused_by_its_length() -> None:
    """A Content-Length over the limit is answered 413 before any of the body is sent."""
    async with serving(max_body=1000) as (service, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            b"POST /api/webhooks/replicate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()
    assert head.startswith(b"HTTP/1.1 413 ")


async def test_a_large_chunked_body_is_refused_while_it_comes() -> None:
    """A body without a length is cut off with 413 once it is over the limit, not when it ends."""
    async with serving(max_body=100_000) as (service, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            b"POST /api/webhooks/replicate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(11):
            writer.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()
    assert head.startswith(b"HTTP/1.1 413 ")


async def test_a_body_at_the_limit_passes() -> None:
    """A body of exactly the limit is taken, and one byte more is not."""
    body = json.dumps({"id": "big", "status": "processing", "logs": "x" * 200_000}).encode()
    async with serving(max_body=len(body)) as (_, client):
        assert (await client.post(URL, content=body, headers=proven(body))).status_code == 200
        assert (
            await client.post(URL, content=body + b" ", headers=proven(body + b" "))
        ).status_code == 413


class HaltedLog(MemoryLog):
    """A log that refuses events while it is failing."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        if self.failing and topic == EVENTS:
            raise LogUnavailable("no broker answers")
        return await super().append(topic, records)


async def test_a_log_that_is_down_is_a_503() -> None:
    """The provider is told to come back while the log refuses, and is served when it is there again."""
    log = HaltedLog()
    async with serving(log=log) as (_, client):
        log.failing = True
        answer = await client.post(URL, content=REPLICATE, headers=proven(REPLICATE))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        log.failing = False
        assert (
            await client.post(URL, content=REPLICATE, headers=proven(REPLICATE))
        ).status_code == 200


async def test_a_log_that_hangs_is_a_503_within_five_seconds(tmp_path: Path) -> None:
    """Providers give up after 5 s, so nobody waits longer, not even behind others that wait."""
    path = tmp_path / "log.db"
    log = await open_log(f"sqlite:///{path}")
    other = connect(path)
    try:
        async with serving(log=log, processing=False) as (_, client):
            other.execute("BEGIN IMMEDIATE")

            async def post() -> tuple[int, float]:
                started = time.monotonic()
                answer = await client.post(URL, content=REPLICATE, headers=proven(REPLICATE))
                return answer.status_code, time.monotonic() - started

            answers = await asyncio.gather(*(post() for _ in range(20)))
            other.execute("ROLLBACK")
    finally:
        other.close()
        await log.close()
    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < 5.0


class Clumsy:
    """A provider whose code trips."""

    name = "clumsy"

    def __init__(self, *, verifies: bool) -> None:
        self._verifies = verifies

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        if not self._verifies:
            raise KeyError("x-signature")
        return "caf\udce9"

    def prediction_id(self, body: bytes) -> str | None:
        raise TypeError("no object")

    def translate(self, webhook: Webhook) -> Event:
        raise Poison("not-json", "nothing to see")


async def test_a_provider_that_trips_proves_nothing_and_loses_nothing() -> None:
    """An error while verifying is a 401; one while looking for the id leaves the proven body in the log."""
    async with serving(
        providers={"bad": Clumsy(verifies=False), "good": Clumsy(verifies=True)}
    ) as (service, client):
        assert (await client.post("/api/webhooks/bad", content=b"{}")).status_code == 401
        assert (await client.post("/api/webhooks/good", content=b"{}")).status_code == 200
        (record,) = await service.records()
    assert (record.key, record.value) == (None, b"{}")
    assert dict(record.headers)["tidings-delivery"] == b"caf?"


async def test_a_webhook_may_come_under_any_host() -> None:
    """A tunnel names itself: the provider's proof is what counts, not the Host."""
    async with serving() as (_, client):
        answer = await client.post(
            URL, content=REPLICATE, headers=proven(REPLICATE, host="abc.tunnel.example")
        )
    assert answer.status_code == 200


header_names = st.sampled_from(
    [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "svix-id",
        "svix-signature",
        "traceparent",
        "content-type",
    ]
)
header_values = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"v1,",
            b"v1,AAAA v1a,AAAA",
            b"\xff\xfe",
            b"99999999999999999999",
            b"-1",
            b"1e9",
            b"\xc3\xa9",
            b"v1",
        ]
    ),
).filter(lambda value: not any(byte in value for byte in b"\r\n\0"))


@pytest.fixture(scope="module")
def port() -> Any:
    with ServingThread(providers=PROVIDERS, webhook_key=KEY) as thread:
        yield thread.port


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    headers=st.lists(st.tuples(header_names, header_values), max_size=8),
    body=st.binary(max_size=200),
    path=st.sampled_from(
        [
            b"/api/webhooks/replicate",
            b"/api/webhooks/standard",
            b"/api/webhooks/replicate/p1?token=%FF",
        ]
    ),
)
def test_no_header_and_no_body_is_a_server_error(
    port: int, headers: list[tuple[str, bytes]], body: bytes, path: bytes
) -> None:
    """Whatever headers (doubled, missing, not ASCII) and bodies come, the answer is a refusal and never a 500."""
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
    request = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n%b\r\n%b"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request % (path, len(body), lines, body))
        answer = connection.recv(65536)
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), answer
