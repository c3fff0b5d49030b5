"""Which network addresses a stranger's URL may lead to. Pure.

A URL in a prediction's output says where this service connects to from inside its network. So only
addresses of the public internet are allowed (OWASP, Server-Side Request Forgery Prevention).
"""

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_network

_NAT64 = ip_network("64:ff9b::/96")
"""RFC 6052, 2.1: the last 32 bits are the IPv4 address that a translator connects to."""
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
"""RFC 8215: a network's own prefixes for translation, of any length that RFC 6052 knows."""
_EMBEDDED_AT = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))
"""RFC 6052, 2.2: the bytes of the IPv4 address behind prefixes of 48, 56, 64 and 96 bits."""
_THIS_NETWORK = ip_network("0.0.0.0/8")
"""RFC 791, 3.2: no destination, and no translator connects to it."""
_V4_COMPATIBLE = ip_network("::/96")
"""RFC 4291, 2.5.5.1: deprecated, the last 32 bits are an IPv4 address."""
_NEVER = tuple(
    ip_network(block)
    for block in (
        "168.63.129.16/32",  # Azure's own services, at a public address
        "192.0.0.0/24",  # RFC 6890; parts of it count as global
        "192.88.99.0/24",  # RFC 7526, relays to 6to4
        "fec0::/10",  # RFC 3879, site-local
        "2001::/23",  # RFC 2928; Teredo and other special purposes
        "5f00::/16",  # RFC 9602
    )
)


def refusal(address: str) -> str | None:
    """Why this address must not be connected to; None: it may.

    Args:
        address: As numbers, an IPv6 one possibly with a zone.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return f"{address[:64]!r} is no address"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return refusal(str(parsed.ipv4_mapped))
        inner = _embedded(parsed)
        for one in inner:
            if (reason := refusal(str(one))) is not None:
                return f"{address} stands for {reason}"
        if inner and (parsed in _NAT64 or parsed in _LOCAL_NAT64):
            return None  # a network without IPv4 reaches the public IPv4 internet by these alone
    if parsed.is_loopback:
        return f"{address}, a loopback address"
    if parsed.is_link_local:
        return f"{address}, a link-local address"
    if parsed.is_multicast:
        return f"{address}, a multicast address"
    if parsed.is_private or not parsed.is_global:
        return f"{address}, an address that is not public"
    if parsed.is_reserved or any(
        parsed in block for block in _NEVER if block.version == parsed.version
    ):
        return f"{address}, a reserved address"
    return None


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 one may stand for."""
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return [address.teredo[1]]
    if address in _LOCAL_NAT64:
        # How long the prefix is cannot be seen: none of the readings may lead inside.
        packed = address.packed
        readings = [IPv4Address(bytes(packed[at] for at in places)) for places in _EMBEDDED_AT]
        return [one for one in readings if one not in _THIS_NETWORK]
    if address in _NAT64 or (address in _V4_COMPATIBLE and int(address) > 1):
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return []


def is_address(host: str) -> bool:
    """Whether a URL's host is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
