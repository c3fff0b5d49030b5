"""Limits per address: who is at the other end, and how much one address may ask for.

Pure: the clock is an argument.
"""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from tidings.storage.resilience.rate_limit import TokenBucket

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

MAX_ADDRESSES = 50_000
"""Buckets kept; the ones untouched for longest go first: they are full again, or nearly."""


def is_loopback(address: str) -> bool:
    """Whether the address is a loopback one: `127.0.0.0/8`, `::1`, a Unix socket's empty name."""
    if address in {"127.0.0.1", "::1", ""}:
        return True
    parsed = _parse(address)
    return parsed is not None and parsed.is_loopback


def address_group(address: str) -> str:
    """What limits per address count together: an IPv6 client has a whole /64 to itself.

    An IPv4 address written as an IPv6 one, mapped or translated (RFC 4291, 2.5.5.2; RFC 6052), is
    itself: behind a translator all clients would share one /64.
    """
    if ":" not in address or (parsed := _parse(address)) is None:
        return address
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.is_loopback:
        return str(parsed)
    if parsed in _TRANSLATED:
        return str(ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF))
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


class TrustedProxies:
    """The networks whose word about the client's address is believed.

    Args:
        networks: In CIDR notation, or single addresses.

    Raises:
        ValueError: One of them is no network.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: Sequence[IPNetwork] = [
            _unmapped(ipaddress.ip_network(network, strict=False)) for network in networks
        ]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Whether this peer is one of ours."""
        parsed = _parse(address)
        return parsed is not None and any(
            parsed.version == network.version and parsed in network for network in self._networks
        )

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """The address of the client: the peer, or what trusted proxies say about it.

        `X-Forwarded-For` is read from the right: each trusted proxy vouches for the one entry
        before it, and what stands further left may have been made up by the client.
        """
        if forwarded_for is None or not self._networks or not self.trusts(peer):
            return peer
        address = peer
        for entry in reversed(forwarded_for.split(",")):
            candidate = _without_port(entry.strip())
            if _parse(candidate) is None:
                return address
            address = candidate
            if not self.trusts(candidate):
                return address
        return address


class AddressLimits:
    """A token bucket for each address.

    Args:
        rate: Requests a second in the long run.
        burst: Requests at once.
    """

    def __init__(self, rate: float = 100.0, burst: float = 400.0) -> None:
        self.rate = rate
        self.burst = burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, now: float) -> float:
        """Count one request.

        Args:
            address: The client's.
            now: Seconds of any clock that only goes forward.

        Returns:
            0 if it may go on; else the seconds after which the next one may.
        """
        bucket = self._buckets.pop(address, None) or TokenBucket(self.rate, self.burst, now)
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket.take(now)


class AddressConnections:
    """Counts the WebSockets of each address.

    Args:
        most: Open at once.
        handshakes: How often an address may begin one.
    """

    def __init__(self, most: int = 1_000, handshakes: AddressLimits | None = None) -> None:
        self.most = most
        self._handshakes = handshakes or AddressLimits(rate=50.0, burst=500.0)
        self._open: Counter[str] = Counter()

    def enter(self, address: str, now: float) -> bool:
        """Count one more, until `leave`; False if that is too many at once, or too fast.

        Args:
            address: The client's.
            now: Seconds of any clock that only goes forward.
        """
        if self._open[address] >= self.most or self._handshakes.take(address, now):
            if not self._open[address]:
                del self._open[address]
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """One is gone."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def __len__(self) -> int:
        """How many addresses have any."""
        return len(self._open)


def _parse(address: str) -> IPAddress | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _unmapped(network: IPNetwork) -> IPNetwork:
    """A network of mapped IPv4 addresses as the one that they are of; peers are compared so."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        address = ipaddress.IPv4Address(int(network.network_address) & 0xFFFF_FFFF)
        return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
