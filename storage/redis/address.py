"""The URL of a store in Redis or Valkey: where the server is, and what may be asked of it. Pure."""

from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode

from tidings.storage.errors import StoreMisconfigured

Node = tuple[str, int]
"""Host and port of one server of a cluster."""

TIMEOUT = 5.0
"""Seconds for one call, connecting included."""
SHARDS = 16
"""Groups of keys; each lies in one slot of a cluster. Fixed in the store by its first opener."""
_PASSED_ON = frozenset(
    [
        "ssl_cert_reqs",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_check_hostname",
    ]
)
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_OWN = "prefix, shards, durability, eviction, timeout, db"
_FORM = "write redis://user:password@host:6379/0, with / ? # @ [ ] in a user or a password as %2F %3F %23 %40 %5B %5D"


class RedisAddress(NamedTuple):
    """Where a store's server is, and what its URL asks for."""

    scheme: str
    """As the driver has it: `redis`, `rediss` or `unix`."""
    credentials: str
    """User and password, escaped."""
    place: str
    """Host and port, or the path of a socket."""
    database: int
    parameters: tuple[tuple[str, str], ...]
    """For the driver."""
    shown: str
    """Without the password."""
    prefix: str
    shards: int
    durable: bool
    """Whether a write is answered when it is on the server's disk."""
    keeps: bool
    """Whether the operator says that the server never drops records when memory is short."""
    timeout: float

    def url(self, node: Node | None = None) -> str:
        """What the driver connects by, to this server or to another node of its cluster."""
        credentials = f"{self.credentials}@" if self.credentials else ""
        if self.scheme == "unix":
            query = urlencode([("db", str(self.database)), *self.parameters])
            return f"unix://{credentials}{self.place}?{query}"
        place = self.place
        if node is not None:
            host, port = node
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        query = f"?{urlencode(self.parameters)}" if self.parameters else ""
        return f"{self.scheme}://{credentials}{place}/{self.database}{query}"


def parse(url: str) -> RedisAddress:
    """Read a store's URL; raises StoreMisconfigured."""
    named, _, rest = url.partition("://")
    kind, plus, variant = named.lower().partition("+")
    scheme = "unix" if plus and variant == "unix" else _SCHEMES.get(kind, kind)
    parameters = _parameters(rest.partition("?")[2], kind)
    authority, _, path = rest.partition("?")[0].partition("/")
    if "@" in path:
        raise StoreMisconfigured(f"{kind}://...: an @ behind the first /; {_FORM}")
    credentials, _, place = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    credentials = quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")
    if scheme == "unix":
        place, path = f"/{path}", ""
        shown = f"unix://{place}"
    else:
        place = _place(place, kind)
        shown = f"{scheme}://{place}/{path}".rstrip("/")
    return _address(scheme, credentials, place, path, parameters, shown)


def _address(
    scheme: str,
    credentials: str,
    place: str,
    path: str,
    parameters: dict[str, str],
    shown: str,
) -> RedisAddress:
    prefix = parameters.pop("prefix", "tidings")
    durability = parameters.pop("durability", "aof")
    eviction = parameters.pop("eviction", "checked")
    try:
        database = int(parameters.pop("db", "") or path.strip("/") or 0)
        shards = int(parameters.pop("shards", SHARDS))
        timeout = float(parameters.pop("timeout", TIMEOUT))
    except ValueError:
        raise StoreMisconfigured(
            f"{shown}: the database, shards and timeout are numbers; {_FORM}"
        ) from None
    if unknown := parameters.keys() - _PASSED_ON:
        raise StoreMisconfigured(
            f"{shown}: ?{min(unknown)}= is unknown; there are {_OWN} and {', '.join(sorted(_PASSED_ON))}"
        )
    for name, value, known in (
        ("durability", durability, ("aof", "everysec")),
        ("eviction", eviction, ("checked", "never")),
    ):
        if value not in known:
            raise StoreMisconfigured(
                f"{shown}: {name}={value} is unknown; there are {' and '.join(known)}"
            )
    if not prefix or set(prefix) & set("{} ") or not 1 <= shards <= 1024 or timeout <= 0:
        raise StoreMisconfigured(
            f"{shown}: a prefix without braces, 1 to 1024 shards and a positive timeout are needed"
        )
    if (required := parameters.get("ssl_cert_reqs")) is not None:
        # `CERT_NONE` is how Celery and others write it.
        parameters["ssl_cert_reqs"] = required.lower().removeprefix("cert_")
    return RedisAddress(
        scheme,
        credentials,
        place,
        database,
        tuple(sorted(parameters.items())),
        shown,
        prefix,
        shards,
        durability == "aof",
        eviction == "never",
        timeout,
    )


def _parameters(query: str, kind: str) -> dict[str, str]:
    parameters = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals or not name or "@" in name:
            raise StoreMisconfigured(f"{kind}://...: a parameter has no name or no value; {_FORM}")
        parameters[unquote(name)] = unquote(value)
    return parameters


def _place(named: str, kind: str) -> str:
    """Host and port, which are the default ones if they are not named."""
    if "," in named:
        raise StoreMisconfigured(
            f"{kind}://...: several hosts; name one: any node of a cluster leads to the others, and elsewhere an"
            " address that moves with the primary"
        )
    host, colon, port = named.rpartition(":")
    if not colon or named.endswith("]"):
        host, port = named, "6379"
    plain = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise StoreMisconfigured(f"{kind}://...: the port is no number from 1 to 65535; {_FORM}")
    if (":" in plain) != host.startswith("["):
        raise StoreMisconfigured(f"{kind}://...: an IPv6 address stands in brackets; {_FORM}")
    return f"{host or 'localhost'}:{int(port)}"
