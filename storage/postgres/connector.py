"""Makes connections to Postgres.

To the hosts in turn, and through poolers that do not take everything.
"""

import random
import ssl
from typing import TYPE_CHECKING

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from tidings.storage.errors import StoreMisconfigured
from tidings.storage.loggers import get_logger
from tidings.storage.postgres.address import Host, PostgresAddress

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

logger = get_logger(__name__)

_ELSEWHERE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TargetServerAttributeNotMatched,
)
"""What another host may do better: nobody is there, or only a standby, or the server starts, stops
or is full."""


class Connector:
    """Connects one at a time; remembers which host served last, and what a pooler refused.

    Args:
        address: Of the store.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._hosts: list[Host | None] = [*address.hosts] or [None]
        self._tls: ssl.SSLContext | None = None
        self._settings = _settings(address) if address.statements else dict(address.settings)
        self.statements = address.statements
        """Prepared statements that a connection keeps; 0: a pooler shares the server's connections
        among clients, and the next statement of ours may meet another one."""

    async def connect(self) -> "Connection":
        """A connection to the first host that takes one.

        Raises:
            StoreMisconfigured: The URL has to be fixed.
            OSError, asyncpg.PostgresError: What the last host said.
        """
        hosts = self._hosts
        if self._address.shuffled:
            hosts = random.sample(hosts, len(hosts))
        failure: Exception | None = None
        for host in hosts:
            try:
                connection = await self._connect(host)
            except ssl.SSLError as error:
                raise StoreMisconfigured(f"{self._address.shown}: {error}; fix the URL") from error
            except _ELSEWHERE as error:
                failure = error
            else:
                # The next connection begins here: a host that is gone may take all of its time to
                # be noticed.
                self._hosts.remove(host)
                self._hosts.insert(0, host)
                return connection
        assert failure is not None
        raise failure

    def share(self) -> None:
        """From now on take it that a pooler shares connections.

        No statement is prepared for later.
        """
        if self.statements:
            self.statements = 0
            logger.warning(
                "storage.postgres.pooled",
                store=self._address.shown,
                remedy="a pooler shares connections without keeping prepared statements; add ?statement_cache_size=0",
            )

    async def _connect(self, host: Host | None) -> "Connection":
        try:
            return await self._open(host)
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" not in str(error):
                raise
            if self._settings == self._address.settings:
                raise StoreMisconfigured(
                    f"{self._address.shown}: {error}; take it out of the URL, or let the pooler ignore it"
                    " (ignore_startup_parameters)"
                ) from error
        # PgBouncer refuses settings that it does not know. Ours only help the planner of a new
        # table, and end what the client gives up by itself.
        self._settings = dict(self._address.settings)
        return await self._connect(host)

    async def _open(self, host: Host | None) -> "Connection":
        address = self._address
        if address.system_roots and self._tls is None:
            self._tls = _system_context(address)
        try:
            return await asyncpg.connect(
                address.dsn,
                host=None if host is None else host.name,
                port=None if host is None else host.port,
                ssl=self._tls,
                timeout=address.connect_timeout,
                command_timeout=address.timeout,
                statement_cache_size=self.statements,
                server_settings=self._settings,
                target_session_attrs=SessionAttribute(address.attributes),
            )
        except ValueError as error:
            raise StoreMisconfigured(f"{address.shown}: {error}; fix the URL") from error


def _settings(address: PostgresAddress) -> dict[str, str]:
    milliseconds = str(int(address.timeout * 1000))
    # Every statement reaches its rows by an index; without statistics, as in a new table, the
    # planner may not see it.
    return {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "jit": "off",
        **address.settings,
    }


def _system_context(address: PostgresAddress) -> ssl.SSLContext:
    """As `sslrootcert=system` of libpq 16.

    The machine's certificates, and the host's name is checked.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    if address.certificate is not None:
        certificate, key, password = address.certificate
        context.load_cert_chain(certificate, key, password)
    return context
