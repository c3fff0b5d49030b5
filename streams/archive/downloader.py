"""Downloads from URLs that strangers wrote, and connects to public addresses alone.

Nothing but https to addresses of the public internet, unless `host:port` is named as allowed. Every
redirect is judged like the first URL. The address is judged when the socket to it is made: whatever
DNS says in between, no connection goes elsewhere.

```
DownloadError
├── Refused       never: the URL, the address or the content is none that is fetched
├── Missing       the server has it no more, or not for us; worth few repeats
└── Interrupted   a repeat may help: timeouts, cut connections, DNS, 5xx, 429
```
"""

import asyncio
import re
import socket
import time
import zlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from yarl import URL

from tidings.streams.archive.ssrf import is_address, refusal

if TYPE_CHECKING:
    import ssl

CHUNK = 256 * 1024
"""Bytes that are read, and come out of a compressed file, at most at once."""
IDENTITY = "identity"
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate"})
"""Of RFC 9110, 8.4.1, those that are undone.

Files are asked for as they are, and some servers compress all the same.
"""
GROWTH = 100
"""Times that content may grow.

Deflate reaches 1,032 (RFC 1951); texts stay below 20, pictures below 2.
"""
GROWTH_ALLOWANCE = 4 * 1024 * 1024
"""Bytes that may come out of a compressed file whatever its growth."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_GZIP_MEMBER = b"\x1f"
"""How another member of a gzip file begins (RFC 1952, 2.3.1)."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOST = re.compile(r"[A-Za-z0-9._\-]+|[0-9A-Fa-f:.]+(?:%25?[A-Za-z0-9]+)?")
_LATER = frozenset({408, 425, 429})
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*")
_NOT_ON_THE_WIRE = re.compile(rb"[^\x21-\x7e]")
"""Bytes that a request line cannot hold (RFC 9112, 3.2)."""


class DownloadError(Exception):
    """The download failed; the message says why and holds no secret of the URL."""


class Refused(DownloadError):
    """The URL, the address or the content is none that is fetched."""


class Missing(DownloadError):
    """The server answered that it has no such file, or none for us."""


class Interrupted(DownloadError):
    """The download broke off or could not begin; a later one may work."""


class Limits(Struct, frozen=True):
    """The bounds of one download. Times in seconds."""

    bytes: int = 512 * 1024 * 1024
    connect: float = 10.0
    silence: float = 30.0
    """Seconds without a byte."""
    rate: float = 1024.0
    """Bytes a second on average, at least, once `silence` has passed: who drips holds a place."""
    total: float = 900.0
    redirects: int = 5


class Download:
    """A download under way."""

    def __init__(self, response: aiohttp.ClientResponse, limits: Limits) -> None:
        self._response = response
        self._limits = limits
        self.received = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content, without the compression that a server may have put around it.

        Raises `DownloadError`.
        """
        if _encoding(self._response) == IDENTITY:
            async for chunk in self._received():
                yield chunk
            return
        size = 0
        async for piece in self._decompressed():
            size += len(piece)
            if size > self._limits.bytes:
                raise _too_large(self._limits.bytes)
            if size > max(GROWTH_ALLOWANCE, GROWTH * self.received):
                raise Refused(f"it grows to more than {GROWTH} times its size when decompressed")
            yield piece

    async def _decompressed(self) -> AsyncIterator[bytes]:
        """What is within gzip, several members too, or zlib, at most `CHUNK` bytes at a time."""
        inner = zlib.decompressobj(_GZIP_OR_ZLIB)
        async for data in self._received():
            full = False
            while data or full:
                if inner.eof:
                    if not data.startswith(_GZIP_MEMBER):
                        break  # padding behind the end, which says nothing
                    inner = zlib.decompressobj(_GZIP_OR_ZLIB)
                try:
                    piece = inner.decompress(data, CHUNK)
                except zlib.error as error:
                    raise Refused(f"it cannot be decompressed: {error}") from None
                data = inner.unused_data if inner.eof else inner.unconsumed_tail
                # More may be ready although all was taken in.
                full = len(piece) == CHUNK and not inner.eof
                if piece:
                    yield piece
        if not inner.eof:
            raise Interrupted(
                f"the download broke off after {self.received} bytes: its compression has no end"
            )

    async def _received(self) -> AsyncIterator[bytes]:
        """The bytes as they are received."""
        limits, started = self._limits, time.monotonic()
        try:
            async for chunk in self._response.content.iter_chunked(CHUNK):
                self.received += len(chunk)
                if self.received > limits.bytes:
                    raise _too_large(limits.bytes)
                took = time.monotonic() - started
                if took > limits.silence and self.received < limits.rate * took:
                    raise Interrupted(f"the download is slower than {limits.rate:g} bytes/s")
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Interrupted(
                f"the download broke off after {self.received} bytes: {_why(error)}"
            ) from None


class Downloads:
    """Downloads files; one for the life of a process, opened in its event loop.

    Args:
        allow: `host:port` that may be reached although private, and by http.
        limits: Of each download.
        concurrency: Connections at once.
        resolver: Instead of the system's.
        tls: Instead of the system's certificates.
    """

    def __init__(
        self,
        allow: Collection[str] = (),
        limits: Limits | None = None,
        *,
        concurrency: int = 16,
        resolver: AbstractResolver | None = None,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        self._allow = frozenset(place.lower() for place in allow)
        self.limits = limits or Limits()
        guarded = _GuardedResolver(resolver or aiohttp.ThreadedResolver())
        how: dict[str, Any] = {"limit": concurrency, "ssl": tls if tls is not None else True}
        self._public = self._session(
            aiohttp.TCPConnector(
                resolver=guarded, socket_factory=_guarded_socket, use_dns_cache=False, **how
            )
        )
        self._allowed = self._session(aiohttp.TCPConnector(resolver=resolver, **how))

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        limits = self.limits
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=limits.total,
                sock_connect=limits.connect,
                connect=limits.total,
                sock_read=limits.silence,
            ),
            headers={"User-Agent": "tidings", "Accept": "*/*", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            read_bufsize=CHUNK,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._public.close()
        await self._allowed.close()

    @asynccontextmanager
    async def fetch(self, url: str) -> AsyncIterator[Download]:
        """Ask for a file.

        Raises:
            DownloadError: Also from the block, while the content is read.
        """
        limits = self.limits
        try:
            async with asyncio.timeout(limits.total):
                response = await self._ask(url)
                try:
                    self._check_answer(response)
                    yield Download(response, limits)
                finally:
                    response.close() if not response.content.at_eof() else response.release()
        except TimeoutError:
            raise Interrupted(f"the download took longer than {limits.total:g} s") from None

    async def _ask(self, url: str) -> aiohttp.ClientResponse:
        """The answer after all redirects."""
        target = _parse(url)
        for _ in range(self.limits.redirects + 1):
            session = self._session_for(target)
            try:
                response = await session.get(target, allow_redirects=False)
            except aiohttp.InvalidURL:
                raise Refused(f"{target.host} is no host") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                if isinstance(error, TimeoutError):
                    raise Interrupted(f"{target.host} does not answer in time") from None
                refused = _refused_within(error)
                raise refused or Interrupted(
                    f"{target.host} cannot be reached: {_why(error)}"
                ) from None
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            target = _parse(location, target)
        raise Refused(f"over {self.limits.redirects} redirects")

    def _session_for(self, url: URL) -> aiohttp.ClientSession:
        host = url.host
        if not host:
            raise Refused("the URL names no host")
        if _HOST.fullmatch(url.raw_host or "") is None:
            raise Refused(f"{host[:64]!r} is no host")
        if url.user is not None or url.password is not None:
            raise Refused(f"the URL of {host} carries credentials")
        if url.scheme not in {"http", "https"}:
            raise Refused(f"{url.scheme[:32]}: is not fetched, https alone is")
        if (
            f"{host}:{url.port}".lower() in self._allow
            or f"[{host}]:{url.port}".lower() in self._allow
        ):
            return self._allowed
        if is_address(host) and (reason := refusal(host)) is not None:
            raise Refused(f"the URL leads to {reason}")
        if url.scheme != "https":
            raise Refused(f"http: is not fetched, https alone is ({host})")
        return self._public

    def _check_answer(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        host = response.url.host
        if status >= 500 or status in _LATER:
            raise Interrupted(f"{host} answers {status}")
        if status != 200:
            raise Missing(f"{host} answers {status}")
        encoding = _encoding(response)
        if encoding != IDENTITY and encoding not in COMPRESSIONS:
            raise Refused(
                f"{host} sends it compressed ({encoding[:32]}) although that was not asked for"
            )
        if response.content_length is not None and response.content_length > self.limits.bytes:
            raise _too_large(self.limits.bytes)


class _GuardedResolver(AbstractResolver):
    """Refuses bad addresses before a socket is opened, so that the error names the reason."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            if (reason := refusal(result["host"])) is not None:
                raise Refused(f"{host} is {reason}")
        return found

    async def close(self) -> None:
        await self._inner.close()


class _RefusedAddress(OSError):
    """No socket is made to this address."""


def _guarded_socket(info: Any) -> socket.socket:
    """Make a socket; the one place where the address of a connection is checked for good."""
    family, kind, protocol, _, where = info
    if (reason := refusal(where[0])) is not None:
        raise _RefusedAddress(reason)
    return socket.socket(family=family, type=kind, proto=protocol)


def _encoding(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Encoding", "").strip().lower() or IDENTITY


def _refused_within(error: BaseException | None) -> Refused | None:
    """The refusal that caused a failure to connect, if one did."""
    while error is not None:
        if isinstance(error, Refused):
            return error
        if isinstance(error, _RefusedAddress):
            return Refused(f"the URL leads to {error}")
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__
    return None


def _parse(text: str, base: URL | None = None) -> URL:
    """Read a URL or a redirect; its path and query stay as they were given, byte for byte.

    A signature may cover them: what is equal by RFC 3986 is another file to a CDN.
    """
    if base is not None:
        text = _resolved(text, base)
    try:
        url = URL(text)
        path, query = _path_and_query(text)
        if not url.host:
            return url
        return URL.build(
            scheme=url.scheme,
            authority=url.raw_authority,
            path=path or "/",
            query_string=query,
            encoded=True,
        )
    except (ValueError, TypeError):
        raise Refused(
            "the URL cannot be read" if base is None else "a redirect leads to no URL"
        ) from None


def _resolved(location: str, base: URL) -> str:
    """The address in a redirect, made absolute (RFC 3986, 5.2)."""
    if _ABSOLUTE.match(location):
        return location
    if location.startswith("//"):
        return f"{base.scheme}:{location}"
    if location.startswith("/"):
        return f"{base.scheme}://{base.raw_authority}{location}"
    return urljoin(str(base), location)


def _path_and_query(text: str) -> tuple[str, str]:
    """Path and query as they stand in a URL; only what no request line can hold is escaped."""
    found = _ABSOLUTE.match(text)
    rest = text[found.end() :].partition("#")[0] if found else ""
    data = rest.encode("utf-8", "surrogateescape")  # as aiohttp reads the bytes of a header
    safe = _NOT_ON_THE_WIRE.sub(lambda one: b"%%%02X" % one[0][0], data).decode("ascii")
    path, _, query = safe.partition("?")
    return path, query


def _too_large(limit: int) -> Refused:
    return Refused(f"it is larger than {limit} bytes")


def _why(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
