"""Checks requests before a route serves them: `Host`, `Origin`, rates per address, tokens."""

import ipaddress
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

from tidings.gateway.auth.origins import (
    DEFAULT_PORTS,
    canonical_host,
    canonical_origin,
    names_host,
)
from tidings.gateway.auth.permissions import (
    GIVES_NOTHING,
    OPEN,
    Authenticator,
    Permissions,
    TokenGivesNothing,
    TokenRefused,
)
from tidings.gateway.auth.rate_limits import (
    AddressConnections,
    AddressLimits,
    TrustedProxies,
    address_group,
    is_loopback,
)
from tidings.gateway.http.problems import Problem, forbidden, unavailable
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger

logger = get_logger(__name__)

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
REMEMBERED = 256
"""`Host` headers, and pages of origins, remembered as checked."""


SCOPE = web.RequestKey("SCOPE", object)
"""Of a request: the ASGI scope that it came with, if it came through a host's server."""

Rights = Callable[[Any], Permissions | Awaitable[Permissions | None] | None]
"""What a host application gives the caller of an ASGI scope; None: its token tells, if any."""


class RequestGuard:
    """Decides whether a request is served, and for whom.

    Args:
        authenticator: Turns tokens into permissions; None (open mode): everything is allowed, with
            `Host` checked.
        allowed_origins: Origins of browsers beside the gateway's own, as they send them
            (`https://app.example`).
        allowed_hosts: Host names (without port) that open mode answers to, beside the loopback
            ones; None: any.
        trusted_proxies: Whose `X-Forwarded-*` headers are believed.
        limits: Requests of each address.
        connections: WebSockets of each address.
        rights: Asked before tokens are, of requests with a `SCOPE`.
        clock: Tells the time.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator | None = None,
        allowed_origins: frozenset[str] = frozenset(),
        allowed_hosts: frozenset[str] | None = frozenset(),
        trusted_proxies: TrustedProxies | None = None,
        limits: AddressLimits | None = None,
        connections: AddressConnections | None = None,
        rights: Rights | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._authenticator = authenticator
        self._rights = rights
        self._allowed_origins = frozenset(map(canonical_origin, allowed_origins))
        self._allowed_hosts = allowed_hosts
        self._trusted_proxies = TrustedProxies() if trusted_proxies is None else trusted_proxies
        self._limits = AddressLimits() if limits is None else limits
        self._connections = AddressConnections() if connections is None else connections
        self._clock = clock
        self._hosts = self._hosts_to_check()
        self._known_hosts: set[str] = set()
        self._told = False
        """Whether it was said that tokens are not looked at."""
        self._known_pages: set[tuple[str, str | None]] = set()

    @property
    def open_mode(self) -> bool:
        """Whether no authentication is configured: what passes `check` may do everything."""
        return self._authenticator is None and self._rights is None

    def check(self, request: web.Request) -> None:
        """Refuse a foreign `Host` or `Origin`, and an address that asks too much.

        Raises:
            Problem: 403 or 429.
        """
        headers, peer = request.headers, request.remote or ""
        self._check_source(headers, peer)
        address = self._limited(headers, peer)
        if address is not None:
            self._check_rate(address)

    def admit_websocket(
        self, headers: Mapping[str, str], peer: str
    ) -> Problem | Callable[[], None] | None:
        """Decide on a WebSocket's handshake.

        Args:
            headers: Their names in lower case.
            peer: The address at the other end of the connection.

        Returns:
            A problem if it is refused; else what to call when the connection is gone, or None.
        """
        try:
            self._check_source(headers, peer)
        except Problem as problem:
            return problem
        address = self._limited(headers, peer)
        if address is None:
            return None
        connections = self._connections
        if not connections.enter(address, self._clock.monotonic()):
            return _too_many("This address opens too many WebSockets; open fewer, or wait.", 1.0)
        return partial(connections.leave, address)

    def _check_source(self, headers: Mapping[str, str], peer: str) -> None:
        # Names in lower case: aiohttp's mapping does not mind, and a handshake's is a plain
        # dictionary of such.
        host = headers.get("host")
        if self._hosts is not None and host not in self._known_hosts:
            self._check_host(host)
        origin = headers.get("origin")
        if origin is not None:
            self._check_origin(origin, self._addressed_host(host, headers, peer))

    async def authenticate(self, request: web.Request, token: str | None = None) -> Permissions:
        """Check the request, and return the permissions of its token.

        Args:
            request: The request.
            token: From elsewhere than the header, for clients that can send none.

        Raises:
            Problem: 401 without a token, or with one that proves nothing; 403 with one that is
                genuine and gives nothing; and as `check` does.
        """
        self.check(request)
        if self._rights is not None:
            given = await self.permissions_of(request.get(SCOPE))
            if given is not None:
                return given
        authenticator = self._authenticator
        if authenticator is None:
            if self._rights is not None:
                raise _unauthorized("missing-token", "The application does not know you; log in.")
            if not self._told and "Authorization" in request.headers:
                self._told = True
                logger.warning("auth.token_ignored", why="no authentication is configured here")
            return OPEN
        token = _bearer(request.headers.get("Authorization")) or token
        if token is None:
            raise _unauthorized("missing-token", "Send a token as `Authorization: Bearer ...`.")
        try:
            permissions = await authenticator.authenticate(token)
        except TokenGivesNothing:
            raise _without_rights() from None
        except TokenRefused as refused:
            if refused.retryable:
                raise unavailable("Token keys", refused.reason) from None
            raise _unauthorized(
                "token-refused", f"The token was refused: {refused.reason}; get a new one."
            ) from None
        if permissions.is_empty:
            raise _without_rights()
        return permissions

    async def permissions_of(self, scope: object) -> Permissions | None:
        """What the host application gives the caller of a scope; None: nothing, or there is no host.

        Raises:
            TypeError: It is neither permissions nor None.
        """
        if self._rights is None or scope is None:
            return None
        given = self._rights(scope)
        if isinstance(given, Awaitable):
            given = await given
        if given is None or isinstance(given, Permissions):
            return given
        raise TypeError(f"rights gave {type(given).__name__}; return tidings.Permissions or None")

    def check_peer(self, peer: str) -> None:
        """Refuse a client elsewhere in open mode: a host's server may listen on any address.

        Raises:
            Problem: 403.
        """
        if self._hosts is not None and not is_loopback(peer) and _is_address(peer):
            raise Problem(
                403,
                "foreign-host",
                "Host not allowed",
                "Without authentication the service answers to this machine alone; give it rights "
                "or tokens (TIDINGS_JWT_SECRET), or set TIDINGS_ANONYMOUS=1.",
            )

    async def require_admin(self, request: web.Request) -> Permissions:
        """As `authenticate`, for admins alone.

        Raises:
            Problem: 403 for everybody else; and as `authenticate` does.
        """
        permissions = await self.authenticate(request)
        if not permissions.is_admin:
            raise forbidden("This is for tokens with the scope admin; ask whoever issues them.")
        return permissions

    def from_loopback(self, request: web.Request) -> bool:
        """Whether the request comes from this machine, no proxy handed it on, and it names us.

        A page elsewhere can point its own name at this machine, and have a browser on it ask us.
        """
        headers = request.headers
        return (
            is_loopback(request.remote or "")
            and self._is_own_host(headers.get("Host"))
            and "X-Forwarded-For" not in headers
            and "Forwarded" not in headers
        )

    def limited_address(self, request: web.Request) -> str | None:
        """The address that limits apply to; None for this machine's own."""
        return self._limited(request.headers, request.remote or "")

    def client_address(self, request: web.Request) -> str:
        """The client's address, as trusted proxies tell it."""
        return self._client(request.headers, request.remote or "")

    def _client(self, headers: Mapping[str, str], peer: str) -> str:
        proxies = self._trusted_proxies
        return proxies.client(peer, _forwarded_for(headers)) if proxies else peer

    def _hosts_to_check(self) -> frozenset[str] | None:
        # Without authentication a page elsewhere could reach us by a name that it points at this
        # machine (DNS rebinding); with it such a page has no token.
        if not self.open_mode or self._allowed_hosts is None:
            return None
        named = {canonical_host(host) or host for host in self._allowed_hosts}
        pages = (origin.partition("://") for origin in self._allowed_origins if origin is not None)
        names = {_host_name(authority) for scheme, _, authority in pages if scheme in DEFAULT_PORTS}
        return LOOPBACK_HOSTS | named | names

    def check_host(self, request: web.Request) -> None:
        """Refuse a foreign `Host` alone: for routes that have no limit.

        Raises:
            Problem: 403.
        """
        if self._hosts is not None:
            self._check_host(request.headers.get("Host"))

    def _is_own_host(self, host: str | None) -> bool:
        name = _host_name(host or "")
        return (
            name in (self._hosts or LOOPBACK_HOSTS)
            or name in (self._allowed_hosts or ())
            or name.endswith(".localhost")
            or _is_loopback_host(name)
        )

    def _check_host(self, host: str | None) -> None:
        name = _host_name(host or "")
        if not self._is_own_host(host):
            raise Problem(
                403,
                "foreign-host",
                "Host not allowed",
                "Without authentication the service answers to its loopback names alone, "
                f"not to {name[:100]!r}; "
                "use http://127.0.0.1, or configure authentication.",
            )
        if host is not None and len(self._known_hosts) < REMEMBERED:
            self._known_hosts.add(host)

    def _addressed_host(
        self, host: str | None, headers: Mapping[str, str], peer: str
    ) -> str | None:
        """The host that the client addressed: the first of a list is the one nearest to it."""
        if "x-forwarded-host" in headers and self._trusted_proxies.trusts(peer):
            return headers["x-forwarded-host"].partition(",")[0].strip()
        return host

    def origin(self, request: web.Request) -> str:
        """Scheme and host as the client addressed them, what a trusted proxy says before its own."""
        headers, peer = request.headers, request.remote or ""
        host = self._addressed_host(request.host, headers, peer)
        scheme = request.scheme
        if "x-forwarded-proto" in headers and self._trusted_proxies.trusts(peer):
            said = headers["x-forwarded-proto"].partition(",")[0].strip().lower()
            scheme = said if said in ("http", "https") else scheme
        return f"{scheme}://{host}"

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of this origin, other than the gateway's own, may read its answers."""
        return canonical_origin(origin) in self._allowed_origins

    def _check_origin(self, origin: str, host: str | None) -> None:
        page = origin, host
        if page in self._known_pages:
            return
        canonical = canonical_origin(origin)
        if canonical is None or not (
            canonical in self._allowed_origins or (host is not None and names_host(canonical, host))
        ):
            raise Problem(
                403,
                "foreign-origin",
                "Origin not allowed",
                f"Pages of {origin[:100]!r} may not use this service; "
                "add the origin to TIDINGS_ALLOWED_ORIGINS.",
            )
        if len(self._known_pages) < REMEMBERED:
            self._known_pages.add(page)

    def _limited(self, headers: Mapping[str, str], peer: str) -> str | None:
        """The address to count; None for this machine's own, unless a proxy names another."""
        if peer == "127.0.0.1" and not self._trusted_proxies:
            return None
        address = self._client(headers, peer)
        return None if is_loopback(address) and address == peer else address_group(address)

    def _check_rate(self, address: str) -> None:
        wait = self._limits.take(address, self._clock.monotonic())
        if wait:
            raise _too_many(
                "This address asks faster than is allowed; wait as long as Retry-After says.", wait
            )


def _forwarded_for(headers: Mapping[str, str]) -> str | None:
    """The header with all of its lines: a proxy may have added its own behind the client's."""
    if isinstance(headers, CIMultiDictProxy):
        return ", ".join(headers.getall("x-forwarded-for", ())) or None
    return headers.get("x-forwarded-for")


def _too_many(detail: str, wait: float) -> Problem:
    headers = {"Retry-After": str(math.ceil(wait))}
    return Problem(429, "too-many-requests", "Too many requests", detail, headers=headers)


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None


def _unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, "Not authenticated", detail, headers={"WWW-Authenticate": "Bearer"})


def _without_rights() -> Problem:
    # RFC 6750, 3.1: another token of the same kind would not help.
    headers = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    detail = f"{GIVES_NOTHING[:1].upper()}{GIVES_NOTHING[1:]}."
    return Problem(403, "token-without-rights", "No rights", detail, headers=headers)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host_name(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_loopback_host(name: str) -> bool:
    return bool(name) and is_loopback(name.strip("[]"))
