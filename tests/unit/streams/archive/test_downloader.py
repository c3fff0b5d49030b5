"""Downloading over real HTTP servers on loopback, the evil ones among them."""

import asyncio
import contextlib
import gzip
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

import pytest
from aiohttp import ClientResponse, TCPConnector, ThreadedResolver, web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.archive.downloader import (
    CHUNK,
    Download,
    DownloadError,
    Downloads,
    Interrupted,
    Limits,
    Missing,
    Refused,
)
from tidings.streams.archive.guarded_http import GuardedResolver

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(1000)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A server that counts who comes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[str] = []
        self.place = ""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await self._answer(request)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Site"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.place = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


async def picture(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=PICTURE, content_type="image/png")


def redirect(to: str) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": to})

    return answer


async def read(downloads: Downloads, url: str) -> bytes:
    async with downloads.fetch(url) as download:
        return b"".join([chunk async for chunk in download.chunks()])


@asynccontextmanager
async def loaded(
    answer: Answer, limits: Limits | None = None, **more: Any
) -> AsyncIterator[tuple[Site, Downloads]]:
    """A site that may be reached, and what downloads from it."""
    async with Site(answer).open() as site:
        downloads = Downloads([site.place], limits, **more)
        try:
            yield site, downloads
        finally:
            await downloads.close()


async def test_a_file_from_an_allowed_place() -> None:
    """What is named as allowed is fetched by http from loopback, every byte of it."""
    async with loaded(picture) as (site, downloads):
        assert await read(downloads, f"http://{site.place}/a.png") == PICTURE


SIGNED = [
    "/f/a%28b%29%3Ac.png?sig=x%2Fy%3A1",
    "/f/a%2fb.png?sig=q%3d%3d",
    "/f/%7Eme/a.png?sig=%2A",
    "/f/x/../a.png?sig=1",
    "/f//a/./b.png",
    "/f/a+b.png?sig=a+b%2Bc",
    "/f/a|b.png?sig=a|b",
    "/f/a.png?sig=&x&y=1",
    "/f/a.png?a=b?c=d/e",
    "/f/%41%zz.png?%",
    "/f/a.png?sv=2024-01-01&se=2026-01-01T00%3A00%3A00Z&sig=ab%2Bc%2Fd%3D",
]


@pytest.mark.parametrize("target", SIGNED)
@pytest.mark.parametrize("by", ["itself", "absolute", "path"])
async def test_a_link_is_asked_for_as_it_was_given(target: str, by: str) -> None:
    """A signature may cover every byte of path and query.

    They are sent unchanged, behind a redirect too.
    """
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        if request.raw_path == "/go":
            where = target if by == "path" else f"http://{site.place}{target}"
            return web.Response(status=302, headers={"Location": where})
        return web.Response(body=PICTURE)

    async with loaded(answer) as (site, downloads):
        first = target if by == "itself" else "/go"
        assert await read(downloads, f"http://{site.place}{first}#fragment") == PICTURE
    assert asked == ([target] if by == "itself" else ["/go", target])


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("b%2Fc.png?x", "/d/b%2Fc.png?x"),
        ("../e/%7E", "/e/%7E"),
        ("?only=a%3Db", "/d/go?only=a%3Db"),
        ("/caf\u00e9 x.png?\u00e9", "/caf%C3%A9%20x.png?%C3%A9"),
    ],
)
async def test_where_a_relative_redirect_leads(location: str, target: str) -> None:
    """It is resolved against the URL that redirects; what no request line can hold is escaped."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        moved = request.raw_path == "/d/go"
        return web.Response(status=302 if moved else 200, headers={"Location": location})

    async with loaded(answer) as (site, downloads):
        await read(downloads, f"http://{site.place}/d/go")
    assert asked == ["/d/go", target]


async def test_a_name_in_another_script() -> None:
    """A host's name in Unicode is asked for by its ASCII form (RFC 5891)."""
    seen: list[str] = []

    class Noting(ThreadedResolver):
        async def resolve(self, host: str, *_: Any, **__: Any) -> list[ResolveResult]:
            seen.append(host)
            raise OSError("no answer")

    downloads = Downloads(resolver=Noting())
    with pytest.raises(Interrupted):
        await read(downloads, "https://b\u00fccher.example/a%2fb")
    await downloads.close()
    assert seen == ["xn--bcher-kva.example"]


async def test_a_network_without_ipv4() -> None:
    """Where DNS64 names a public server by its NAT64 address it is tried, and a private one is refused."""

    class Dns64(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, *_: Any, **__: Any
        ) -> list[ResolveResult]:
            inner = "10.0.0.1" if host.startswith("inside") else "1.1.1.1"
            address = f"64:ff9b::{inner}"
            return [
                ResolveResult(
                    hostname=host, host=address, port=port, family=socket.AF_INET6, proto=0, flags=0
                )
            ]

    tried: list[str] = []

    def no_connection(info: Any) -> socket.socket:
        tried.append(info[4][0])
        raise OSError("no network here")

    downloads = Downloads(resolver=Dns64())
    connector = downloads._sessions._public.connector
    assert isinstance(connector, TCPConnector)
    connector._socket_factory = no_connection
    with pytest.raises(Interrupted):
        await read(downloads, "https://files.example/a.png")
    with pytest.raises(Refused, match=r"stands for 10\.0\.0\.1"):
        await read(downloads, "https://inside.example/a.png")
    await downloads.close()
    assert tried == ["64:ff9b::1.1.1.1"]


@given(
    st.lists(st.binary(max_size=2000), min_size=1, max_size=4),
    st.integers(1, 700),
    st.sampled_from([b"", bytes(9)]),
)
async def test_members_in_pieces(members: list[bytes], size: int, padding: bytes) -> None:
    """Several members of gzip, cut anywhere, with or without padding behind them, give what was in them."""
    packed = b"".join(gzip.compress(member) for member in members) + padding
    assert await decompressed(packed, size) == b"".join(members)
    assert await decompressed(zlib.compress(members[0]), size) == members[0]


@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, CHUNK * 3, CHUNK * 3 + 200])
async def test_what_comes_out_at_a_pieces_edge(length: int) -> None:
    """Nothing is lost where a piece is full just as the input ends."""
    content = b"ab" * (length // 2) + b"c" * (length % 2)
    for size in (1, 7, 10_000):
        assert await decompressed(gzip.compress(content), size) == content


@given(st.binary(max_size=200))
async def test_what_is_not_compressed(data: bytes) -> None:
    """Whatever the bytes, they are decompressed, or refused, or cut off: no other error."""
    with contextlib.suppress(Refused, Interrupted):
        await decompressed(data, 50)


async def decompressed(packed: bytes, size: int) -> bytes:
    """What comes out of a compressed download that comes in pieces of this size."""

    class Content:
        async def iter_chunked(self, _most: int) -> AsyncIterator[bytes]:
            for at in range(0, len(packed), size):
                yield packed[at : at + size]

    class Response:
        headers: ClassVar[dict[str, str]] = {"Content-Encoding": "gzip"}
        content = Content()

    download = Download(cast("ClientResponse", Response()), Limits())
    return b"".join([piece async for piece in download.chunks()])


BAD_URLS = [
    "http://127.0.0.1:9/x",
    "https://127.0.0.1:9/x",
    "https://localhost:9/x",
    "https://[::1]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[::ffff:7f00:1]/x",
    "https://169.254.169.254/latest/meta-data",
    "https://10.0.0.1/x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0177.0.0.1/x",
    "https://127.1/x",
    "https://0/x",
    "https://user:secret@example.com/x",
    "https://user@example.com/x",
    "http://example.com/x",
    "ftp://example.com/x",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "gopher://example.com/",
    "https:///x",
    "https://exa mple.com/",
    "https://example.com:99999/",
    "",
]


@pytest.mark.parametrize("url", BAD_URLS)
async def test_urls_that_are_never_fetched(url: str) -> None:
    """Private addresses in every spelling, other schemes, credentials and plain http are refused with a reason."""
    downloads = Downloads(["127.0.0.1:1"])
    try:
        with pytest.raises(Refused) as refused:
            await read(downloads, url)
    finally:
        await downloads.close()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", [url for url in BAD_URLS if url not in {"", "https://exa mple.com/"}]
)
async def test_redirects_are_judged_like_the_first_url(url: str) -> None:
    """A place that is trusted cannot send us where a stranger could not."""
    async with loaded(redirect(url)) as (site, downloads):
        with pytest.raises(Refused):
            await read(downloads, f"http://{site.place}/")
        assert len(site.asked) == 1


async def test_a_redirect_to_a_neighbour_reaches_nobody() -> None:
    """The port beside an allowed one is another place: it sees no connection."""
    async with (
        Site(picture).open() as secret,
        loaded(redirect(f"http://{secret.place}/")) as (site, downloads),
    ):
        with pytest.raises(Refused):
            await read(downloads, f"http://{site.place}/")
        assert secret.asked == []


async def test_redirects_end() -> None:
    """A ring of redirects is left after a few steps."""
    async with loaded(redirect("/again")) as (site, downloads):
        with pytest.raises(Refused, match="redirects"):
            await read(downloads, f"http://{site.place}/")
        assert len(site.asked) == 6


class FickleResolver(AbstractResolver):
    """Says one thing first and another afterwards."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return [
            ResolveResult(
                hostname=host,
                host=answer,
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        pass


async def test_a_name_that_leads_inside_is_refused() -> None:
    """A public name whose address is private is not connected to."""
    async with Site(picture).open() as secret:
        port = secret.place.rpartition(":")[2]
        downloads = Downloads(resolver=FickleResolver("127.0.0.1"))
        with pytest.raises(Refused, match="loopback"):
            await read(downloads, f"https://innocent.example:{port}/")
        await downloads.close()
        assert secret.asked == []


async def test_dns_that_changes_between_check_and_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is judged when the socket is made.

    A check that was passed before does not help.
    """
    connected = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rebinding = FickleResolver("93.184.216.34", "127.0.0.1")

    async def checked_then_changed(
        self: GuardedResolver, host: str, port: int = 0, family: Any = 0
    ) -> list[ResolveResult]:
        await rebinding.resolve(host, port)  # what a check would have seen
        return await rebinding.resolve(host, port)

    monkeypatch.setattr(GuardedResolver, "resolve", checked_then_changed)
    downloads = Downloads()
    try:
        with pytest.raises(Refused, match="loopback"):
            await read(downloads, f"https://rebinding.example:{port}/")
    finally:
        await downloads.close()
        server.close()
    assert rebinding.asked == 2
    assert not connected.is_set()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(65536))


async def dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def lying(request: web.Request) -> web.StreamResponse:
    return web.Response(body=PICTURE, headers={"Content-Length": str(len(PICTURE) + 5)})


async def bomb(request: web.Request) -> web.StreamResponse:
    return web.Response(body=gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"})


async def cut_short(request: web.Request) -> web.StreamResponse:
    return web.Response(body=gzip.compress(PICTURE)[:-4], headers={"Content-Encoding": "gzip"})


async def not_compressed(request: web.Request) -> web.StreamResponse:
    return web.Response(body=PICTURE, headers={"Content-Encoding": "gzip"})


async def in_a_new_way(request: web.Request) -> web.StreamResponse:
    return web.Response(body=PICTURE, headers={"Content-Encoding": "br"})


async def twice(request: web.Request) -> web.StreamResponse:
    return web.Response(
        body=gzip.compress(gzip.compress(PICTURE)), headers={"Content-Encoding": "gzip, gzip"}
    )


async def huge_by_its_own_word(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(10**12)})
    await response.prepare(request)
    return response


async def unavailable(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


async def busy(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=429)


async def gone(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=404)


async def partial(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=206, body=b"x")


EVIL: list[tuple[Answer, type[DownloadError], str]] = [
    (endless, Refused, "larger"),
    (huge_by_its_own_word, Refused, "larger"),
    (bomb, Refused, "larger"),
    (cut_short, Interrupted, "broke off"),
    (not_compressed, Refused, "decompressed"),
    (in_a_new_way, Refused, "compressed \\(br\\)"),
    (twice, Refused, "compressed"),
    (dripping, Interrupted, "slower"),
    (silent, Interrupted, "time|longer"),
    (lying, Interrupted, "broke off|time|longer"),
    (unavailable, Interrupted, "503"),
    (busy, Interrupted, "429"),
    (gone, Missing, "404"),
    (partial, Missing, "206"),
]


@pytest.mark.parametrize(
    ("answer", "error", "reason"), EVIL, ids=[answer.__name__ for answer, _, _ in EVIL]
)
async def test_servers_that_mean_no_good(
    answer: Answer, error: type[DownloadError], reason: str
) -> None:
    """Endless, dripping, silent, lying, compressed, failing.

    An end within the limits, and its reason.
    """
    limits = Limits(bytes=1_000_000, total=1.5, silence=1.0)
    async with loaded(answer, limits) as (site, downloads), asyncio.timeout(20):
        with pytest.raises(error, match=reason):
            await read(downloads, f"http://{site.place}/")


@pytest.mark.parametrize("encoding", ["gzip", "X-GZIP", "deflate"])
async def test_a_server_that_compresses_unasked(encoding: str) -> None:
    """Nobody asked for it, and the file is kept as it was before."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["Accept-Encoding"])
        packed = zlib.compress(PICTURE) if encoding == "deflate" else gzip.compress(PICTURE)
        return web.Response(
            body=packed, headers={"Content-Encoding": encoding}, content_type="image/png"
        )

    async with loaded(answer) as (site, downloads):
        assert await read(downloads, f"http://{site.place}/a.png") == PICTURE
    assert asked == ["identity"]


async def test_a_bomb_is_refused_before_it_is_large() -> None:
    """What grows out of proportion ends long before the limit of bytes, and the process has held little of it."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=gzip.compress(bytes(100_000_000)), headers={"Content-Encoding": "gzip"}
        )

    largest = whole = 0

    async def count(url: str) -> None:
        nonlocal largest, whole
        async with downloads.fetch(url) as download:
            async for chunk in download.chunks():
                largest, whole = max(largest, len(chunk)), whole + len(chunk)

    async with loaded(answer) as (site, downloads):
        with pytest.raises(Refused, match="grows to more than 100 times"):
            await count(f"http://{site.place}/")
    assert 0 < largest <= CHUNK
    assert whole < 20_000_000


async def test_a_name_that_nobody_knows_may_be_known_later() -> None:
    """A failing DNS is an outage, and not the file's fault."""

    class Failing(ThreadedResolver):
        async def resolve(self, *_: Any, **__: Any) -> list[ResolveResult]:
            raise OSError("no answer")

    downloads = Downloads(resolver=Failing())
    with pytest.raises(Interrupted):
        await read(downloads, "https://nowhere.example/")
    await downloads.close()
