"""Webhooks on a connection that is kept: answered without the router, in order, and never lost on the way."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tests.support.conditions import eventually
from tests.support.gateway.small_service import SmallService, small_service
from tests.support.providers.bodies import REPLICATE, SECRET, signed
from tidings.gateway.http.server import MOST_SHORT_WAYS
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import LogUnavailable, NewRecord, Position, RecordTooLarge, Told
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_providers

PROVIDERS = open_providers({"replicate": Configuration(secret=(SECRET,))})
URL = "/api/webhooks/replicate"
MOST_SUBMITTED = 5_000
"""Bytes that a log of the test takes without a task."""
READ = b"GET /api/predictions/nobody HTTP/1.1\r\nHost: localhost\r\n\r\n"


class GatedLog(MemoryLog):
    """Takes an append only once its gate is open, or fails it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.fails = False

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.fails:
            raise LogUnavailable("the log is away")
        return await super().append(topic, records)


class SubmittingLog(GatedLog):
    """As it, and takes what needs no task: then a webhook needs no request object either."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def submit(self, topic: str, records: Sequence[NewRecord], told: Told) -> None:
        self.submitted += 1
        if sum(len(record.value or b"") for record in records) > MOST_SUBMITTED:
            raise RecordTooLarge("the log takes no record this large")
        task = asyncio.create_task(self._tell(topic, records, told))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _tell(self, topic: str, records: Sequence[NewRecord], told: Told) -> None:
        try:
            positions = await self.append(topic, records)
        except LogUnavailable as error:
            told(error)
        else:
            told(positions)


@pytest.fixture(params=[GatedLog, SubmittingLog])
def log(request: pytest.FixtureRequest) -> GatedLog:
    """A log of either kind."""
    made: GatedLog = request.param()
    return made


def webhook(body: bytes = REPLICATE, path: str = URL, **headers: str) -> bytes:
    """A signed POST."""
    given = {**signed(body, timestamp=int(time.time())), "content-type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Kept:
    """A connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers without the date, body."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode()
        first, *lines = head.split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        headers.pop("date")
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(request)
        return await self.answer()


@asynccontextmanager
async def kept(log: MemoryLog | None = None) -> AsyncIterator[tuple[SmallService, Kept]]:
    """A connection on which a first webhook has shown the way already."""
    parts = {"providers": PROVIDERS, "log": log or MemoryLog()}
    async with small_service(processing=False, **parts) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        connection = Kept(reader, writer)
        try:
            assert (await connection.ask(webhook()))[0] == 200
            yield service, connection
        finally:
            writer.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the router was asked for."""
    found: list[str] = []
    resolve = web.UrlDispatcher.resolve

    async def noting(router: web.UrlDispatcher, request: web.Request) -> web.UrlMappingMatchInfo:
        found.append(request.path)
        return await resolve(router, request)

    monkeypatch.setattr(web.UrlDispatcher, "resolve", noting)
    return found


async def test_the_router_is_asked_once_and_the_answers_are_alike(
    asked: list[str], log: GatedLog
) -> None:
    """From the second one on a webhook needs no router, is appended as the first was, and is answered alike."""
    parts = {"providers": PROVIDERS, "log": log}
    async with small_service(processing=False, **parts) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        connection = Kept(reader, writer)
        answers = [await connection.ask(webhook()) for _ in range(3)]
        records = await service.records()
        writer.close()
    assert asked == [URL]
    assert answers[0][0] == 200
    assert answers[1:] == answers[:1] * 2
    assert [record.value for record in records] == [REPLICATE] * 3
    assert len({tuple(name for name, _ in record.headers) for record in records}) == 1


async def test_what_is_not_ordinary_goes_the_long_way(asked: list[str], log: GatedLog) -> None:
    """A body in two pieces, another version, an expectation, a query or another method: asked for each, and answered."""
    whole = webhook()
    async with kept(log) as (service, connection):
        connection.writer.write(whole[:-10])
        await asyncio.sleep(0)
        await eventually(lambda: asked.count(URL) == 2, 5)
        assert (await connection.ask(whole[-10:]))[0] == 200
        expecting = webhook(expect="100-continue")
        connection.writer.write(expecting)
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await connection.answer())[0] == 200
        assert (await connection.ask(webhook(path=URL + "?a=b")))[0] == 200
        assert (await connection.ask(READ))[0] == 404
        assert (await connection.ask(whole.replace(b"HTTP/1.1", b"HTTP/1.0")))[0] == 200
        assert await connection.reader.read() == b""  # as version 1.0 wants it
        assert len(await service.records()) == 5
    assert len(asked) == 6


async def test_a_refusal_leaves_the_connection_open(asked: list[str], log: GatedLog) -> None:
    """One that is not proven is answered 401 as everywhere, and the next one is taken."""
    async with kept(log) as (service, connection):
        status, headers, body = await connection.ask(webhook(webhook_signature="v1,AAAA"))
        assert (status, headers["content-type"]) == (401, "application/problem+json")
        assert b"bad-signature" in body
        assert "server" not in headers
        assert (await connection.ask(webhook()))[0] == 200
        assert len(await service.records()) == 2
    assert asked == [URL]


async def test_a_page_of_another_origin_is_told_what_it_was_told_before(log: GatedLog) -> None:
    """With an `Origin` the answer has the headers for browsers, on the short way too."""
    async with kept(log) as (_, connection):
        _, first, _ = await connection.ask(webhook(origin="http://localhost"))
        async with asyncio.timeout(10):
            _, second, _ = await connection.ask(webhook(origin="http://localhost"))
    assert first == second


async def test_answers_keep_the_order_of_requests(log: GatedLog) -> None:
    """A read that comes while a webhook waits for the log is answered behind it, however it is worded."""
    for behind in (READ, READ.replace(b"\r\n\r\n", b"\r\nX-A: upgrade\r\n\r\n"), webhook()):
        async with kept(log) as (_, connection):
            log.gate.clear()
            connection.writer.write(webhook())
            await eventually(lambda: log.waiting == 1, 5)
            connection.writer.write(behind)
            connection.writer.write(READ)
            await connection.writer.drain()
            other = await asyncio.open_connection(*connection.writer.get_extra_info("peername"))
            other[1].write(READ)  # once it is answered the server has read what came before
            assert (await Kept(*other).answer())[0] == 404
            other[1].close()
            assert log.waiting == 1
            log.gate.set()
            assert (await connection.answer())[0] == 200
            assert (await connection.answer())[0] == (200 if behind.startswith(b"POST") else 404)
            assert (await connection.answer())[0] == 404


async def test_a_log_that_is_away_is_a_503_and_the_next_one_is_taken(log: GatedLog) -> None:
    """The short way answers what the long one does if the log takes nothing."""
    async with kept(log) as (_, connection):
        log.fails = True
        status, headers, _ = await connection.ask(webhook())
        assert (status, "retry-after" in headers) == (503, True)
        assert headers["content-type"] == "application/problem+json"
        log.fails = False
        assert (await connection.ask(webhook()))[0] == 200


async def test_a_client_that_closes_its_sending_half_still_gets_its_answer(log: GatedLog) -> None:
    """The answer comes, and the connection ends behind it."""
    async with kept(log) as (_, connection):
        log.gate.clear()
        connection.writer.write(webhook())
        connection.writer.write_eof()
        await eventually(lambda: log.waiting == 1, 5)
        log.gate.set()
        assert (await connection.answer())[0] == 200
        assert await asyncio.wait_for(connection.reader.read(), 10) == b""


async def test_the_end_of_the_service_waits_for_what_is_under_way(log: GatedLog) -> None:
    """A webhook whose append is under way as the service ends is answered before its connection is closed."""
    async with small_service(processing=False, providers=PROVIDERS, log=log) as service:
        connection = Kept(*await asyncio.open_connection("127.0.0.1", service.port))
        assert (await connection.ask(webhook()))[0] == 200
        log.gate.clear()
        connection.writer.write(webhook())
        await eventually(lambda: log.waiting == 1, 5)
        asyncio.get_running_loop().call_later(0.1, log.gate.set)
    assert (await connection.answer())[0] == 200
    assert await asyncio.wait_for(connection.reader.read(), 10) == b""
    connection.writer.close()


async def test_an_ordinary_webhook_needs_no_request_object() -> None:
    """A log that needs no task gets it in the call that received it; what it refuses goes the long way."""
    log = SubmittingLog()
    async with kept(log) as (service, connection):
        assert (await connection.ask(webhook()))[0] == 200
        assert log.submitted == 1
        packed = gzip.compress(REPLICATE)
        assert (await connection.ask(webhook(packed, content_encoding="gzip")))[0] == 200
        assert (await connection.ask(webhook(packed)))[0] == 200
        assert log.submitted == 1
        large = REPLICATE[:-1] + b',"logs":"' + b"x" * MOST_SUBMITTED + b'"}'
        assert (await connection.ask(webhook(large)))[0] == 200
        assert log.submitted == 2
        bodies = [record.value for record in await service.records()]
    assert bodies == [*[REPLICATE] * 4, large]


async def test_a_client_that_went_away_harms_nobody() -> None:
    """Its webhook is kept, and other connections go on."""
    log = SubmittingLog()
    async with kept(log) as (service, connection):
        log.gate.clear()
        connection.writer.write(webhook())
        await eventually(lambda: log.waiting == 1, 5)
        connection.writer.transport.abort()
        other = Kept(*await asyncio.open_connection("127.0.0.1", service.port))
        assert (await other.ask(READ))[0] == 404  # the server has seen the end of the first
        log.gate.set()
        assert (await other.ask(webhook()))[0] == 200
        assert len(await service.records()) == 3
        other.writer.close()


async def test_few_addresses_are_remembered() -> None:
    """Whoever signs may spell an address in many ways; no more than a few are kept."""
    async with kept() as (_, connection):
        letters = "replicate"
        for number in range(MOST_SHORT_WAYS + 10):
            spelt = "".join(
                f"%{ord(one):02x}" if number >> place & 1 else one
                for place, one in enumerate(letters)
            )
            assert (await connection.ask(webhook(path=f"/api/webhooks/{spelt}")))[0] == 200
