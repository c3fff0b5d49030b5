"""The URL of a store in Redis or Valkey: what it names, what it may ask for, and which servers it admits."""

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tidings.storage.errors import StoreMisconfigured
from tidings.storage.redis.cluster import Address

TIMEOUT = 5.0
"""Seconds for one call, connecting included."""
SHARDS = 16
"""Groups of keys; each lies in one slot of a cluster. Fixed in the store by its first opener."""
_PASSED_ON = {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}


class RedisAddress(NamedTuple):
    """Where a store's server is, and what its URL asks for."""

    url: str
    shown: str
    """Without the password."""
    prefix: str
    shards: int
    durable: bool
    timeout: float


def at_node(url: str, node: Address) -> str:
    """The URL with the same user, password and parameters at another node."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    host, port = node
    return urlunsplit(
        parts._replace(netloc=f"{user}{at}{f'[{host}]' if ':' in host else host}:{port}")
    )


def parse(url: str) -> RedisAddress:
    """Read a store's URL; raises StoreMisconfigured."""
    scheme, _, rest = url.partition("://")
    scheme = {"valkey": "redis", "valkeys": "rediss"}.get(scheme.lower(), scheme.lower())
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix = parameters.pop("prefix", "tidings")
        shards = int(parameters.pop("shards", SHARDS))
        durability = parameters.pop("durability", "aof")
        timeout = float(parameters.pop("timeout", TIMEOUT))
        host, port = parts.hostname or "localhost", parts.port or 6379
        int(parts.path.strip("/") or 0)
    except ValueError as error:
        raise StoreMisconfigured(
            f"{scheme}://...: {error}; write {scheme}://user:password@host:6379/0"
        ) from None
    shown = f"{scheme}://{host}:{port}{parts.path}"
    if unknown := parameters.keys() - _PASSED_ON:
        raise StoreMisconfigured(
            f"{shown}: ?{min(unknown)}= is unknown; there are prefix, shards, durability, timeout"
        )
    if durability not in {"aof", "everysec"}:
        raise StoreMisconfigured(
            f"{shown}: durability={durability} is unknown; there are aof and everysec"
        )
    if not prefix or set(prefix) & set("{} ") or not 1 <= shards <= 1024 or timeout <= 0:
        raise StoreMisconfigured(
            f"{shown}: a prefix without braces, 1 to 1024 shards and a positive timeout are needed"
        )
    plain = urlunsplit((scheme, parts.netloc, parts.path, urlencode(parameters), ""))
    return RedisAddress(plain, shown, prefix, shards, durability == "aof", timeout)


def refuse_careless(address: RedisAddress, information: dict[str, Any]) -> None:
    """Raise StoreMisconfigured where the server's INFO says that it may lose what it was given."""
    policy = information.get("maxmemory_policy")
    if policy != "noeviction":
        raise StoreMisconfigured(
            f"{address.shown} would drop records when memory is short (maxmemory-policy {policy});"
            " set maxmemory-policy noeviction"
        )
    if address.durable and not information.get("aof_enabled"):
        raise StoreMisconfigured(
            f"{address.shown} keeps no append-only file, so a write is not on the disk when it is answered;"
            " set appendonly yes (best with appendfsync always), or add ?durability=everysec to the URL"
        )
