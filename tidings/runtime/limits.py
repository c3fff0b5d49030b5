"""What clients may use, as the settings say: of a session, of an owner, and of an address.

Each gateway process counts for itself: behind a load balancer, or with `--workers`, a limit holds
for each of them.
"""

import contextlib
import resource

from tidings.config.settings import Settings
from tidings.gateway.auth.quotas import OwnerLimits, SessionLimits
from tidings.gateway.auth.rate_limits import AddressConnections, AddressLimits
from tidings.gateway.http.held_bytes import HeldLimits

HANDSHAKE_BURST = 10.0
"""Seconds' worth of handshakes that may come at once: a page of an office behind one address is
opened by all."""
REQUEST_BURST = 4.0
"""Seconds' worth of requests that may come at once."""
MOST_FILES = 1_048_576
"""If the system names no limit."""
OWN_FILES = 200
"""Files that a process keeps open beside its clients' connections: databases, brokers, downloads."""


def session_limits(settings: Settings) -> SessionLimits:
    """Of one WebSocket."""
    return SessionLimits(
        subscriptions=settings.session_subscriptions, frames_per_second=settings.session_messages
    )


def owner_limits(settings: Settings) -> OwnerLimits:
    """Of all sessions of one token's `sub` together."""
    return OwnerLimits(
        connections=settings.owner_connections,
        subscriptions=settings.owner_subscriptions,
        messages_per_second=settings.owner_messages,
    )


def held_limits(settings: Settings) -> HeldLimits:
    """Of what is held in memory on behalf of clients."""
    return HeldLimits(
        connection=settings.session_bytes,
        owner=settings.owner_bytes,
        process=settings.held_bytes,
    )


def address_limits(settings: Settings) -> AddressLimits:
    """Of the HTTP requests of one address."""
    rate = float(settings.address_requests)
    return AddressLimits(rate=rate, burst=rate * REQUEST_BURST)


def address_connections(settings: Settings) -> AddressConnections:
    """Of the WebSockets of one address."""
    rate = float(settings.address_handshakes)
    return AddressConnections(
        settings.address_connections, AddressLimits(rate=rate, burst=rate * HANDSHAKE_BURST)
    )


def warnings_of(settings: Settings) -> list[str]:
    """Limits that an operator hardly meant, each as half a sentence with its remedy."""
    found = []
    if settings.owner_subscriptions < settings.session_subscriptions:
        found.append(
            f"TIDINGS_OWNER_SUBSCRIPTIONS ({settings.owner_subscriptions}) is below TIDINGS_SESSION_SUBSCRIPTIONS "
            f"({settings.session_subscriptions}), which no session can reach; lower the second"
        )
    if settings.owner_messages < settings.session_messages:
        found.append(
            f"TIDINGS_OWNER_MESSAGES ({settings.owner_messages}) is below TIDINGS_SESSION_MESSAGES "
            f"({settings.session_messages}), which no session can reach; lower the second"
        )
    if settings.session_bytes < settings.max_body:
        found.append(
            f"TIDINGS_SESSION_BYTES ({settings.session_bytes}) is below TIDINGS_MAX_BODY ({settings.max_body}), "
            "so that no body of that size is taken; raise the first"
        )
    files = open_files()
    if settings.address_connections + OWN_FILES > files:
        found.append(
            f"a process may open {files} files here, and one address alone {settings.address_connections} connections "
            "(TIDINGS_ADDRESS_CONNECTIONS); raise the first with ulimit -Hn, or lower the second"
        )
    return found


def open_files() -> int:
    """How many files and connections a serving process may have open at once.

    It raises its limit to the hard one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if hard == resource.RLIM_INFINITY else hard


def raise_open_files() -> None:
    """Let this process and its children open as many connections as the system allows.

    The soft limit is often 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < open_files():
        with contextlib.suppress(
            ValueError, OSError
        ):  # some systems have a lower bound that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files(), hard))
