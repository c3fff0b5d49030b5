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
import time
import zlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from tidings.streams.archive.guarded_http import (
    Forbidden,
    GuardedSessions,
    forbidden_within,
    parse_url,
)

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
_LATER = frozenset({408, 425, 429})


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
        self.limits = limits or Limits()
        self._sessions = GuardedSessions(
            allow,
            timeout=aiohttp.ClientTimeout(
                total=self.limits.total,
                sock_connect=self.limits.connect,
                connect=self.limits.total,
                sock_read=self.limits.silence,
            ),
            concurrency=concurrency,
            headers={"User-Agent": "tidings", "Accept": "*/*", "Accept-Encoding": "identity"},
            resolver=resolver,
            tls=tls,
            auto_decompress=False,
            read_bufsize=CHUNK,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._sessions.close()

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
        try:
            target = parse_url(url)
            for _ in range(self.limits.redirects + 1):
                response = await self._get(target)
                if response.status not in _REDIRECTS:
                    return response
                location = response.headers.get("Location", "")
                response.close()
                target = parse_url(location, target)
        except Forbidden as error:
            raise Refused(str(error)) from None
        raise Refused(f"over {self.limits.redirects} redirects")

    async def _get(self, target: URL) -> aiohttp.ClientResponse:
        try:
            return await self._sessions.session_for(target).get(target, allow_redirects=False)
        except aiohttp.InvalidURL:
            raise Refused(f"{target.host} is no host") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise Interrupted(f"{target.host} does not answer in time") from None
            raise forbidden_within(error) or Interrupted(
                f"{target.host} cannot be reached: {_why(error)}"
            ) from None

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


def _encoding(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Encoding", "").strip().lower() or IDENTITY


def _too_large(limit: int) -> Refused:
    return Refused(f"it is larger than {limit} bytes")


def _why(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
