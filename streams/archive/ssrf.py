"""Which network addresses a stranger's URL may lead to. Pure.

A URL in a prediction's output says where this service connects to from inside its network: nothing but addresses of
the public internet may be meant (OWASP, Server-Side Request Forgery Prevention).
"""

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_network

_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
"""RFC 6052, RFC 8215: the last 32 bits are an IPv4 address."""
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
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return refusal(str(parsed.ipv4_mapped))
    inner = _inner(parsed)
    if inner is not None and (reason := refusal(str(inner))) is not None:
        return f"{address} stands for {reason}"
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


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address within an IPv6 one."""
    if isinstance(address, IPv4Address):
        return None
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in block for block in (*_NAT64, _V4_COMPATIBLE)) and int(address) > 1:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def is_address(host: str) -> bool:
    """Whether a URL's host is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
