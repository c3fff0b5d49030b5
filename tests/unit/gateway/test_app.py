"""The application as a whole over a real port: who may come in, what is served where, and how errors look."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import jwt
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from tests.support.conditions import eventually
from tests.support.gateway.serving_thread import ServingThread
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.api import mutations
from tidings.gateway.api.static_files import load_pages, policy
from tidings.gateway.auth.rate_limits import AddressLimits, TrustedProxies
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.gateway.http import server
from tidings.gateway.http.held_bytes import Kind
from tidings.gateway.http.problems import Problem, from_failure
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import NewRecord, Position

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    async with (
        small_service(**settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client


def bearer(**claims: Any) -> dict[str, str]:
    token = jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


async def raw(port: int, request: bytes) -> bytes:
    """The whole answer to bytes on a connection of their own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 15)
    writer.close()
    return answer


def assert_problem(answer: httpx.Response, status: int, code: str | None = None) -> None:
    body = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "error"} <= set(body)
    assert (body["success"], body["errorCode"]) == (False, body["code"])
    assert body["status"] == status
    assert body["detail"]
    assert code is None or body["code"] == code


# ---- who may come in ----


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""]
)
async def test_a_foreign_host_is_refused_in_open_mode(host: str) -> None:
    """A name that a stranger points at this machine gets nothing (DNS rebinding)."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        for path in (
            "/api/predictions/p1",
            "/api/predictions",
            "/",
            "/api/events?all=true",
            "/metrics",
            "/nowhere",
        ):
            assert_problem(await client.get(path, headers={"Host": host}), 403, "foreign-host")
        assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:99", "127.0.0.1:8080", "127.0.0.2", "[::1]:80", "a.localhost"]
)
async def test_loopback_names_are_served(host: str) -> None:
    """Whatever name this machine goes by for itself is its own."""
    async with serving() as (_, client):
        assert (await client.get("/api/predictions", headers={"Host": host})).status_code == 200


async def test_a_foreign_origin_is_refused() -> None:
    """Pages of another origin get nothing, those of the same or an allowed one do."""
    async with serving(allowed_origins=frozenset({"https://app.example"})) as (service, client):
        own = {"Origin": service.url, "Host": service.url.removeprefix("http://")}
        for origin in (
            "https://evil.example",
            "null",
            "https://app.example.evil.example",
            "http://app.example",
        ):
            assert_problem(
                await client.get("/api/predictions", headers={"Origin": origin}),
                403,
                "foreign-origin",
            )
        assert (await client.get("/api/predictions", headers=own)).status_code == 200
        allowed = await client.get("/api/predictions", headers={"Origin": "https://app.example"})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        asked = await client.options(
            "/api/predictions/p1", headers={"Origin": "https://app.example"}
        )
        assert asked.status_code == 204
        assert "PATCH" in asked.headers["access-control-allow-methods"]
        await service.put(prediction("p1"))
        read = await client.get("/api/predictions/p1", headers={"Origin": "https://app.example"})
        assert read.headers["access-control-allow-origin"] == "https://app.example"


async def test_with_authentication_a_token_is_needed() -> None:
    """Without a token, or with one that proves nothing, the answer is a 401 that says what to send."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (_, client):
        for headers in (
            {},
            {"Authorization": "Basic eDp5"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer x.y.z"},
        ):
            answer = await client.get("/api/predictions", headers=headers)
            assert_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert_problem(
            await client.get(f"/api/predictions?access_token={bearer()['Authorization'][7:]}"), 401
        )
        assert (await client.get("/api/predictions", headers=bearer(sub="ann"))).status_code == 200
        assert (await client.get("/", headers={"Host": "any.example"})).status_code in {200, 404}


async def test_an_address_that_asks_too_much_is_told_to_wait() -> None:
    """Addresses that a trusted proxy forwards have limits of their own; the loopback range by itself has none."""
    limits = AddressLimits(rate=0.1, burst=2)
    async with serving(limits=limits, trusted_proxies=TrustedProxies(["127.0.0.0/8"])) as (
        _,
        client,
    ):
        one = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}
        for _ in range(2):
            assert (await client.get("/api/predictions", headers=one)).status_code == 200
        limited = await client.get("/api/predictions", headers=one)
        assert_problem(limited, 429)
        assert int(limited.headers["retry-after"]) >= 1
        other = {"X-Forwarded-For": "203.0.113.8"}
        assert (await client.get("/api/predictions", headers=other)).status_code == 200
        for _ in range(5):
            assert (await client.get("/api/predictions")).status_code == 200


def test_only_trusted_proxies_are_believed() -> None:
    """The address is that of the first hop from the right that is none of ours, and a stranger's word counts nothing."""
    proxies = TrustedProxies(["10.0.0.0/8", "::1"])
    assert proxies.client("203.0.113.1", "1.2.3.4") == "203.0.113.1"
    assert proxies.client("10.0.0.1", "1.2.3.4, 5.6.7.8") == "5.6.7.8"
    assert proxies.client("10.0.0.1", "1.2.3.4, 5.6.7.8, 10.9.9.9") == "5.6.7.8"
    assert proxies.client("10.0.0.1", "nonsense") == "10.0.0.1"
    assert proxies.client("::ffff:10.0.0.1", "[2001:db8::1]:443") == "2001:db8::1"
    assert proxies.client("10.0.0.1", None) == "10.0.0.1"


def test_a_bucket_fills_again() -> None:
    """After the burst one request passes in each interval."""
    limits = AddressLimits(rate=2, burst=3)
    assert [limits.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert limits.take("a", 0.5) == 0
    assert limits.take("a", 0.5) > 0
    assert limits.take("b", 0.5) == 0


# ---- health ----


async def test_health_and_readiness() -> None:
    """Alive as long as it answers; ready when every part is, and else it says which is not and why."""
    state: dict[str, str | None] = {"log": None}

    async def log() -> str | None:
        return state["log"]

    async def store() -> str | None:
        if state["log"] == "broken":
            raise OSError("disk gone")
        return None

    async with serving(ready={"log": log, "store": store}, version="9.9") as (_, client):
        assert (await client.get("/healthz")).json() == {"status": "ok", "version": "9.9"}
        assert (await client.get("/readyz")).json() == {
            "status": "ready",
            "parts": ["log", "store"],
        }
        state["log"] = "broken"
        answer = await client.get("/readyz")
        assert_problem(answer, 503, "not-ready")
        assert answer.json()["notReady"] == {"log": "broken", "store": "OSError: disk gone"}
        assert (await client.get("/healthz")).status_code == 200


async def test_metrics_are_for_this_machine_and_admins() -> None:
    """Loopback gets Prometheus' text; what a proxy forwards needs an admin's token."""
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    async with serving(registry=registry, authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (
        _,
        client,
    ):
        assert "things_total 3.0" in (await client.get("/metrics")).text
        forwarded = {"X-Forwarded-For": "203.0.113.7"}
        assert_problem(await client.get("/metrics", headers=forwarded), 401)
        assert_problem(
            await client.get("/metrics", headers={**forwarded, **bearer(scope="read:all")}), 403
        )
        assert (
            await client.get("/metrics", headers={**forwarded, **bearer(scope="admin")})
        ).status_code == 200


async def test_a_page_that_points_its_name_here_reads_no_metrics() -> None:
    """From this machine, too, a `Host` that is not ours needs a token: a browser may be asked by any page."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (_, client):
        for path in ("/metrics", "/readyz"):
            headers = {"Host": "rebound.example"}
            answer = await client.get(path, headers=headers)
            assert (path, answer.status_code) in {("/metrics", 401), ("/readyz", 200)}
            assert "parts" not in answer.text
    async with serving() as (_, client):
        for path in ("/metrics", "/readyz", "/openapi.json", "/"):
            answer = await client.get(path, headers={"Host": "rebound.example"})
            assert_problem(answer, 403, "foreign-host")
        assert (await client.get("/healthz", headers={"Host": "pod.example"})).status_code == 200


async def test_others_learn_only_whether_it_is_ready() -> None:
    """Which part is in the way, and why, is for this machine and for admins; a probe needs yes or no."""

    async def log() -> str | None:
        return "the broker at 10.0.0.7 is away"

    parts: dict[str, Any] = {"ready": {"log": log}}
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims()), **parts) as (_, client):
        elsewhere = {"X-Forwarded-For": "203.0.113.7"}
        for headers in (elsewhere, {**elsewhere, **bearer(sub="ann")}):
            answer = await client.get("/readyz", headers=headers)
            assert_problem(answer, 503, "not-ready")
            assert "10.0.0.7" not in answer.text
        answer = await client.get("/readyz", headers={**elsewhere, **bearer(scope="admin")})
        assert "10.0.0.7" in answer.text


async def test_no_answer_names_the_server() -> None:
    """Which server and version this is, nobody is told."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        for path in ("/api/predictions/p1", "/api/predictions", "/", "/nowhere", "/openapi.json"):
            assert "server" not in (await client.get(path)).headers, path
        assert b"\r\nserver" not in (await raw(service.port, b"NONSENSE\r\n\r\n")).lower()


@pytest.mark.lean
@pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"websocket"])
async def test_what_comes_behind_a_refused_upgrade_is_answered(protocol: bytes) -> None:
    """Requests in the same bytes as an upgrade that is not made are answered, in their order."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n"
    ask = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
    async with serving() as (service, _):
        bytes_ = ask % (b"/healthz", upgrade) + ask % (b"/nowhere", b"")
        answers = await raw(service.port, bytes_ + ask % (b"/readyz", b"Connection: close\r\n"))
    codes = [one.split(b" ")[0] for one in answers.split(b"HTTP/1.1 ")[1:]]
    assert codes == [b"200", b"404", b"200"]


@pytest.mark.lean
async def test_who_takes_nothing_of_an_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that its client does not read is given up; until then its bytes count as held."""
    monkeypatch.setattr(server, "SWEEP_EVERY", 0.1)
    monkeypatch.setattr(server, "NO_PROGRESS", 0.5)
    async with serving() as (service, client):
        for number in range(12):
            await service.put(prediction(f"p{number}", logs="x" * 400_000))
        with socket.socket() as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            unread.connect(("127.0.0.1", service.port))
            unread.sendall(b"GET /api/predictions HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: service.held.by_kind[Kind.PAGES] > 3_000_000)
            await eventually(lambda: service.held.total == 0)
            with pytest.raises(ConnectionResetError):
                sum(iter(lambda: len(unread.recv(65_536)), 0))
        listed = (await client.get("/api/predictions")).json()
        assert listed["cursor"] is not None
        rest = (await client.get(f"/api/predictions?cursor={listed['cursor']}")).json()
        names = {one["predictionId"] for one in listed["data"] + rest["data"]}
        assert len(names) == len(listed["data"]) + len(rest["data"]) == 12


async def test_stats_are_figures_for_admins() -> None:
    """The page's operator part gets every group of figures as JSON."""
    async with serving(stats={"hub": lambda: {"sessions": 2}}, version="1") as (_, client):
        answer = (await client.get("/api/stats")).json()
    assert answer["success"] is True
    assert (answer["data"]["version"], answer["data"]["hub"]) == ("1", {"sessions": 2})


# ---- what is served where ----


async def test_what_is_not_there() -> None:
    """An address that nothing serves is a 404, another method a 405 that says which ones are allowed."""
    async with serving() as (_, client):
        assert_problem(await client.get("/api/nothing"), 404, "no-route")
        assert_problem(await client.get("/static/../access.py"), 404)
        assert_problem(await client.get("/static/%2e%2e/access.py"), 404)
        answer = await client.put("/api/predictions/p1")
        assert_problem(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
        assert (await client.options("/api/predictions")).headers[
            "allow"
        ] == "GET, HEAD, OPTIONS, POST"


async def test_an_address_with_a_line_break_is_nowhere_too() -> None:
    """A path may hold any character: what no route serves is a problem, and not the server's own page."""
    async with serving() as (_, client):
        for path in ("/assets/a%0Ab", "/%0A", "/api/predictions/%0Ax"):
            assert_problem(await client.get(path), 404)


async def test_pages_are_served_under_a_strict_policy() -> None:
    """Each file of the page comes with the policy, a type, an ETag, and is not sent again when it is known."""
    async with serving() as (_, client):
        for path in load_pages():
            answer = await client.get("/" if path == "index.html" else f"/static/{path}")
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"].startswith(
                "default-src 'none'; script-src 'self';"
            )
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = await client.get(
                f"/static/{path}", headers={"If-None-Match": answer.headers["etag"]}
            )
            assert again.status_code == 304
    assert "unsafe" not in policy()


@pytest.mark.lean
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"POST /api/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_a_problem_too(request_bytes: bytes) -> None:
    """What the server itself refuses looks like every other error, and shows nothing of its inside."""
    async with serving() as (service, _):
        answer = await raw(service.port, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"400"
    assert b"application/problem+json" in head
    assert b"Traceback" not in body
    assert b'"detail"' in body


@pytest.mark.lean
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"secret" * 7_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n"
        % (b"secret" * 7_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Y: %b\r\n" % (b"secret" * 1_000) * 20,
    ],
)
async def test_a_head_that_is_too_long_is_not_repeated(request_bytes: bytes) -> None:
    """A line, a header or a head beyond the limits is a problem that shows nothing of what was sent."""
    async with serving() as (service, _):
        answer = await raw(service.port, request_bytes)
    assert answer.split(b" ")[1] == b"400"
    assert b"head-too-large" in answer
    assert b"secret" not in answer


@pytest.mark.lean
async def test_a_client_that_closes_its_sending_half_is_answered() -> None:
    """Every request that came whole is answered, and then the connection ends; an incomplete one just ends."""
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    part = b"POST /api/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    async with serving() as (service, _):
        for sent, answers in ((get, 1), (get * 3, 3), (part, 0), (b"GET /healthz", 0), (b"", 0)):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(sent)
            writer.write_eof()
            async with asyncio.timeout(10):
                assert (await reader.read()).count(b"HTTP/1.1 200 OK") == answers
            writer.close()


async def test_a_compressed_body_is_not_unpacked() -> None:
    """A body that says it is compressed is refused where JSON is read: its size cannot be trusted."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert_problem(
            await client.patch("/api/predictions/p1", content=b"\x1f\x8b", headers=headers), 415
        )


async def test_http_1_0_and_pipelining() -> None:
    """An old client gets its answer and the end of the connection; pipelined requests are answered in order."""
    async with serving() as (service, _):
        await service.put(prediction("p1"))
        await service.put(prediction("p2"))
        old = await raw(
            service.port, b"GET /api/predictions/p1 HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        assert b'"predictionId":"p1"' in old
        both = await raw(
            service.port,
            b"GET /api/predictions/p1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"GET /api/predictions/p2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        assert both.index(b'"predictionId":"p1"') < both.index(b'"predictionId":"p2"')
        assert both.count(b"HTTP/1.1 200 OK") == 2


def test_what_nobody_expected_tells_nothing() -> None:
    """An unexpected error is a 500 without its message, which may hold anything."""
    problem = from_failure(KeyError("secret"))
    assert problem.status == 500
    assert b"secret" not in problem.body()
    assert from_failure(Problem(409, "c", "e", "d")).status == 409


@pytest.fixture(scope="module")
def caller() -> Any:
    with (
        ServingThread() as thread,
        httpx.Client(base_url=f"http://127.0.0.1:{thread.port}", timeout=20) as client,
    ):
        yield client


paths = st.sampled_from(
    [
        "/api/predictions",
        "/api/predictions/p1",
        "/api/predictions/p1/cancel",
        "/api/webhooks/x",
        "/",
    ]
)
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"]),
    path=paths,
    query=st.dictionaries(
        st.sampled_from(["limit", "cursor", "status", "fields", "owner", "x"]), texts, max_size=3
    ),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "if-none-match",
                "prefer",
                "authorization",
                "last-event-id",
                "idempotency-key",
                "origin",
            ]
        ),
        st.binary(max_size=20).filter(
            lambda value: not any(byte < 32 or byte == 127 for byte in value)
        ),
        max_size=3,
    ),
    body=st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"{}", b'{"status":"failed"}', b'{"provider":"a","model":"b"}']),
    ),
)
def test_no_request_is_a_server_error(
    caller: httpx.Client,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, bytes],
    body: bytes,
) -> None:
    """Whatever is asked for, with whatever headers, parameters and body, no answer is a 500."""
    sent = {name.encode(): value.strip() for name, value in headers.items()}
    answer = caller.request(
        method,
        path,
        params=query,
        headers={b"content-type": b"application/json", **sent},
        content=body,
    )
    assert answer.status_code < 500, answer.text


class HangingLog(MemoryLog):
    """A log that takes nothing while it hangs."""

    hanging = False
    asked = 0

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        if self.hanging:
            self.asked += 1
            await asyncio.Event().wait()
        return await super().append(topic, records)


async def test_what_is_under_way_at_the_end_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the service ends, what is in the log is answered as taken, and what is not with 503: nobody is left alone."""
    monkeypatch.setattr(mutations, "APPEND_WAIT", 0.5)
    log = HangingLog()
    patch = {"status": "processing", "progress": 0.5}
    async with httpx.AsyncClient(timeout=20) as client:
        async with small_service(log=log, processing=False) as service:
            await service.put(prediction("p1"))
            await service.put(prediction("p2"))
            url = f"{service.url}/api/predictions/"
            taken = asyncio.create_task(client.patch(url + "p1", json=patch))
            wait = {"If-None-Match": '"2"', "Prefer": "wait=30"}
            waiting = asyncio.create_task(client.get(url + "p2", headers=wait))
            await eventually(lambda: len(service.reader) == 2)
            log.hanging = True
            lost = asyncio.create_task(client.patch(url + "p1", json=patch))
            await eventually(lambda: log.asked == 1)
        assert (await taken).status_code == 202
        assert (await waiting).status_code == 304
        answer = await lost
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_token_that_nobody_looks_at_is_told_once() -> None:
    """Without authentication a request with a token is served, and the log says once that nobody looks at it."""
    with structlog.testing.capture_logs() as logged:
        async with serving() as (_, client):
            for _ in range(2):
                answer = await client.get("/api/predictions", headers={"Authorization": "Bearer t"})
                assert answer.status_code == 200
    assert [line["event"] for line in logged].count("auth.token_ignored") == 1
