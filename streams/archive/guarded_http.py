"""Connections to addresses that strangers chose: public ones alone, judged when the socket is made.

Nothing but https to addresses of the public internet, unless `host:port` is named as allowed.
Whatever DNS says between the check and the connection, no connection goes elsewhere.
"""

import re
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from tidings.streams.archive.ssrf import is_address, refusal

if TYPE_CHECKING:
    import ssl

_HOST = re.compile(r"[A-Za-z0-9._\-]+|[0-9A-Fa-f:.]+(?:%25?[A-Za-z0-9]+)?")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*")
_NOT_ON_THE_WIRE = re.compile(rb"[^\x21-\x7e]")
"""Bytes that a request line cannot hold (RFC 9112, 3.2)."""


class Forbidden(Exception):
    """The URL or its address is none that is connected to; the message says why, without secrets."""


class GuardedSessions:
    """Two client sessions: one that reaches public addresses alone, one for what is allowed by name.

    Args:
        allow: `host:port` that may be reached although private, and by http.
        timeout: Of each request.
        concurrency: Connections at once; 0: without a limit here.
        headers: Of each request.
        resolver: Instead of the system's.
        tls: Instead of the system's certificates.
        options: What else a session takes.
    """

    def __init__(
        self,
        allow: Collection[str],
        *,
        timeout: aiohttp.ClientTimeout,
        concurrency: int,
        headers: dict[str, str],
        resolver: AbstractResolver | None = None,
        tls: "ssl.SSLContext | None" = None,
        **options: Any,
    ) -> None:
        self._allow = frozenset(place.lower() for place in allow)
        guarded = GuardedResolver(resolver or aiohttp.ThreadedResolver())
        how: dict[str, Any] = {"limit": concurrency, "ssl": tls if tls is not None else True}
        self._public, self._allowed = (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                headers=headers,
                trust_env=False,
                **options,
            )
            for connector in (
                aiohttp.TCPConnector(
                    resolver=guarded, socket_factory=_guarded_socket, use_dns_cache=False, **how
                ),
                aiohttp.TCPConnector(resolver=resolver, **how),
            )
        )

    def session_for(self, url: URL) -> aiohttp.ClientSession:
        """The session for this URL; raises `Forbidden` if there is none."""
        return self._allowed if check_url(url, self._allow) else self._public

    async def close(self) -> None:
        """Close all connections."""
        await self._public.close()
        await self._allowed.close()


def check_url(url: URL, allow: Collection[str]) -> bool:
    """Whether `host:port` of the URL is allowed by name.

    Raises:
        Forbidden: It is not, and no public address of https either.
    """
    host = url.host
    if not host:
        raise Forbidden("the URL names no host")
    if _HOST.fullmatch(url.raw_host or "") is None:
        raise Forbidden(f"{host[:64]!r} is no host")
    if url.user is not None or url.password is not None:
        raise Forbidden(f"the URL of {host} carries credentials")
    if url.scheme not in {"http", "https"}:
        raise Forbidden(f"{url.scheme[:32]}: is not fetched, https alone is")
    if f"{host}:{url.port}".lower() in allow or f"[{host}]:{url.port}".lower() in allow:
        return True
    if is_address(host) and (reason := refusal(host)) is not None:
        raise Forbidden(f"the URL leads to {reason}")
    if url.scheme != "https":
        raise Forbidden(f"http: is not fetched, https alone is ({host})")
    return False


def forbidden_within(error: BaseException | None) -> Forbidden | None:
    """The refusal that caused a failure to connect, if one did."""
    while error is not None:
        if isinstance(error, Forbidden):
            return error
        if isinstance(error, _RefusedAddress):
            return Forbidden(f"the URL leads to {error}")
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__
    return None


def parse_url(text: str, base: URL | None = None) -> URL:
    """Read a URL or a redirect; its path and query stay as they were given, byte for byte.

    A signature may cover them: what is equal by RFC 3986 is another file to a CDN. Raises
    `Forbidden` if it cannot be read.
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
        raise Forbidden(
            "the URL cannot be read" if base is None else "a redirect leads to no URL"
        ) from None


class GuardedResolver(AbstractResolver):
    """Refuses bad addresses before a socket is opened, so that the error names the reason."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See `AbstractResolver.resolve`; raises `Forbidden`."""
        found = await self._inner.resolve(host, port, family)
        for result in found:
            if (reason := refusal(result["host"])) is not None:
                raise Forbidden(f"{host} is {reason}")
        return found

    async def close(self) -> None:
        """See `AbstractResolver.close`."""
        await self._inner.close()


class _RefusedAddress(OSError):
    """No socket is made to this address."""


def _guarded_socket(info: Any) -> socket.socket:
    """Make a socket; the one place where the address of a connection is checked for good."""
    family, kind, protocol, _, where = info
    if (reason := refusal(where[0])) is not None:
        raise _RefusedAddress(reason)
    return socket.socket(family=family, type=kind, proto=protocol)


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
