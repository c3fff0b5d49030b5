"""The URL of a store in Postgres, as libpq, its hosters and other drivers' users write it. Pure.

libpq's names are those of PostgreSQL 18, "33.1.2. Parameter Key Words". A parameter that our driver
knows is passed on; one that can be said otherwise is translated. One without a meaning here is left
out, and refused if leaving it out would weaken a guarantee. Any other name is a setting of the
server, as it was for the driver.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode

from tidings.storage.errors import StoreMisconfigured

TIMEOUT = 5.0
"""Seconds for a statement, and for connecting to one host."""
POOL = 8
STATEMENTS = 100
"""Prepared statements that a connection keeps."""

PASSED_ON = frozenset(
    [
        "user",
        "password",
        "passfile",
        "dbname",
        "database",
        "service",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
    ]
)
"""What the driver reads as libpq does."""
TRANSLATED = frozenset(
    [
        "host",
        "hostaddr",
        "port",
        "connect_timeout",
        "application_name",
        "fallback_application_name",
        "options",
        "target_session_attrs",
        "load_balance_hosts",
        "requiressl",
        "channel_binding",
        "gssencmode",
        "sslcertmode",
    ]
)
LEFT_OUT = frozenset(
    [
        "client_encoding",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "sslcompression",
        "sslsni",
        "sslkeylogfile",
        "gssdelegation",
        "min_protocol_version",
        "max_protocol_version",
        "servicefile",
    ]
)
"""Of libpq, without a meaning here: the driver always speaks UTF-8, and every call has a time
limit."""
REFUSED = frozenset(
    [
        "require_auth",
        "requirepeer",
        "sslcrldir",
        "scram_client_key",
        "scram_server_key",
        "replication",
        "oauth_issuer",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_scope",
    ]
)
"""What the driver cannot do, and nobody should believe it does."""
FOREIGN = frozenset(
    [
        "pool_timeout",
        "socket_timeout",
        "sslaccept",
        "uselibpqcompat",
        "supa",
        "workaround",
        "schema_search_path",
    ]
)
"""Of Prisma, node-postgres, Supabase and Vercel, without a meaning here."""

_ATTRIBUTES = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
_HOST = re.compile(r"\[([^\[\]]+)\](?::(\d+))?|([^:\[\]]*)(?::(\d+))?")
_ESCAPES = "in a user or a password write / ? # @ [ ] as %2F %3F %23 %40 %5B %5D"
_FORM = "write postgresql://user:password@host:5432/name"
_YES = frozenset({"true", "1", "yes", "on"})


class Host(NamedTuple):
    """One place where the server may be."""

    name: str
    """A name, an address, or the folder of a Unix socket."""
    port: int | None


class PostgresAddress(NamedTuple):
    """Where a store's server is, and how it is spoken to."""

    dsn: str
    """What the driver reads itself: user, password, database and TLS; no host."""
    hosts: tuple[Host, ...]
    """Tried in this order; empty: the driver's default."""
    shuffled: bool
    """Whether they are tried in any order."""
    attributes: str
    """What a session must be like (`target_session_attrs`)."""
    shown: str
    """Without the password."""
    schema: str | None
    pool: int
    statements: int
    """Prepared statements that a connection keeps; 0: behind a pooler that shares connections."""
    timeout: float
    connect_timeout: float
    """Seconds, for each host."""
    settings: Mapping[str, str]
    """Of the server, as the URL wants them."""
    system_roots: bool
    """Whether the server's certificate is checked against those that the machine trusts."""
    certificate: tuple[str, str | None, str | None] | None
    """The client's own certificate, its key and the key's password."""


def parse(url: str) -> PostgresAddress:
    """Read a store's URL.

    Raises:
        StoreMisconfigured: It is none, or wants what cannot be had.
    """
    user, named, database, parameters = _split(url)
    try:
        hosts = _hosts(named, parameters)
    except ValueError as error:
        raise StoreMisconfigured(f"postgresql://...: {error}; {_FORM}") from None
    shown = f"postgresql://{','.join(map(_shown, hosts)) or 'localhost'}/{quote(database)}"
    if refused := REFUSED & parameters.keys():
        raise StoreMisconfigured(
            f"{shown}: the driver does not know {min(refused)}; take it out of the URL"
        )
    schema = parameters.pop("schema", None)
    pool = _number(shown, "pool", parameters, POOL, other="connection_limit")
    statements = _number(shown, "statement_cache_size", parameters, STATEMENTS)
    timeout = _number(shown, "timeout", parameters, TIMEOUT)
    connecting = _number(shown, "connect_timeout", parameters, 0.0)
    if pool < 1 or timeout <= 0 or statements < 0:
        raise StoreMisconfigured(
            f"{shown}: pool and timeout are above 0, and statement_cache_size is not below"
        )
    if _shares_connections(parameters):
        statements = 0
    _translate_tls(shown, parameters)
    attributes = parameters.pop("target_session_attrs", "read-write" if len(hosts) > 1 else "any")
    if attributes not in _ATTRIBUTES:
        raise StoreMisconfigured(
            f"{shown}: target_session_attrs={attributes} is unknown; there are {', '.join(_ATTRIBUTES)}"
        )
    shuffled = parameters.pop("load_balance_hosts", "disable") == "random"
    system_roots = parameters.get("sslrootcert") == "system"
    passed = {name: parameters.pop(name) for name in PASSED_ON & parameters.keys()}
    for name in (LEFT_OUT | FOREIGN) & parameters.keys():
        del parameters[name]
    fallback = parameters.pop("fallback_application_name", "tidings")
    settings = {"application_name": fallback, **parameters}
    authority = f"{user}@" if user else ""
    dsn = f"postgresql://{authority}/{quote(database, safe='')}"
    dsn += f"?{urlencode(passed, quote_via=quote)}" if passed else ""
    return PostgresAddress(
        dsn,
        hosts,
        shuffled,
        attributes,
        shown,
        schema,
        int(pool),
        int(statements),
        timeout,
        connecting if connecting > 0 else timeout,
        settings,
        system_roots,
        (passed["sslcert"], passed.get("sslkey"), passed.get("sslpassword"))
        if "sslcert" in passed
        else None,
    )


def _split(url: str) -> tuple[str, str, str, dict[str, str]]:
    """User and password (escaped), the hosts, the database and the parameters.

    Here `+` is no space, as for libpq.
    """
    _, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    authority, _, path = address.partition("/")
    if "@" in path or ("@" not in authority and "@" in query):
        raise StoreMisconfigured(f"postgresql://...: {_ESCAPES}; {_FORM}")
    credentials, _, named = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    escaped = quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")
    parameters = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise StoreMisconfigured(
                f"postgresql://...: a parameter has no name or no value; {_FORM}"
            )
        parameters[unquote(name)] = unquote(value)
    return escaped, named, unquote(path), parameters


def _hosts(named: str, parameters: dict[str, str]) -> tuple[Host, ...]:
    """The hosts of the URL, or of its parameters. Raises ValueError, which names no password."""
    ports = [port for port in parameters.pop("port", "").split(",") if port]
    listed = parameters.pop("host", "") or parameters.pop("hostaddr", "")
    parameters.pop("hostaddr", None)
    hosts = []
    if not named:
        hosts = [Host(name or "localhost", None) for name in listed.split(",")] if listed else []
    else:
        for one in named.split(","):
            found = _HOST.fullmatch(one)
            if found is None:
                raise ValueError(f"a host is no host:port ({_ESCAPES})")
            in_brackets, port, plain, plain_port = found.groups()
            number = port or plain_port
            hosts.append(
                Host(unquote(in_brackets or plain) or "localhost", int(number) if number else None)
            )
    if ports and not hosts:
        hosts = [Host("localhost", None)]
    if len(ports) not in {0, 1, len(hosts)}:
        raise ValueError(f"there are {len(hosts)} hosts and {len(ports)} ports")
    if ports:
        numbers = ports * len(hosts) if len(ports) == 1 else ports
        hosts = [
            Host(one.name, int(port)) if one.port is None else one
            for one, port in zip(hosts, numbers, strict=True)
        ]
    for host in hosts:
        if host.port is not None and not 0 < host.port < 65536:
            raise ValueError(f"{host.port} is no port")
    return tuple(hosts)


def _shown(host: Host) -> str:
    name = f"[{host.name}]" if ":" in host.name else host.name
    return name if host.port is None else f"{name}:{host.port}"


def _number(
    shown: str, name: str, parameters: dict[str, str], default: float, *, other: str | None = None
) -> float:
    foreign = None if other is None else parameters.pop(other, None)
    text = parameters.pop(name, foreign)
    try:
        return default if text is None else float(text)
    except ValueError:
        raise StoreMisconfigured(f"{shown}: {name}={text} is no number") from None


def _shares_connections(parameters: dict[str, str]) -> bool:
    """Whether the URL says, in the words of Prisma, JDBC or Rails, that a pooler shares connections among clients."""
    pgbouncer = parameters.pop("pgbouncer", "").lower() in _YES
    threshold = parameters.pop("prepareThreshold", "") == "0"
    prepared = parameters.pop("prepared_statements", "").lower() == "false"
    return pgbouncer or threshold or prepared


def _translate_tls(shown: str, parameters: dict[str, str]) -> None:
    """Say with `sslmode` what was said otherwise."""
    mode = parameters.get("sslmode", "")
    wanted = (
        parameters.pop("requiressl", "") == "1",
        parameters.pop("ssl", "").lower() in _YES,
        # The driver binds no channels: what the parameter guards against is left to the
        # certificate. TLS it does mean.
        parameters.pop("channel_binding", "") == "require",
    )
    if mode == "no-verify" or (
        any(wanted) and mode in {"", "allow", "prefer"}
    ):  # of node-postgres, as Heroku hands it out
        parameters["sslmode"] = "require"
    for name in ("gssencmode", "sslcertmode"):
        if parameters.pop(name, "") == "require":
            raise StoreMisconfigured(
                f"{shown}: the driver cannot keep {name}=require; take it out of the URL"
            )
    if parameters.get("sslrootcert") == "system":
        if mode not in {"", "verify-full"}:
            raise StoreMisconfigured(
                f"{shown}: sslrootcert=system goes with sslmode=verify-full, not with {mode}"
            )
        parameters["sslmode"] = "verify-full"
