"""Which HTTP proxy a call goes through: as the environment says, and none to this machine itself.

A proxy that the environment names looks for `127.0.0.1` on its own machine, so whatever calls a
loopback address calls it directly, whether or not `NO_PROXY` says so.
"""

import ipaddress
from urllib.parse import urlsplit

from tidings.storage.redaction import redact


def is_loopback(host: str) -> bool:
    """Whether a name or an address, in brackets or not, is this machine's own."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def calls_this_machine(url: str) -> bool:
    """Whether a URL is reached without leaving the machine."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # no URL at all, which whoever calls it will find out
        return False


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an `http` or `https` URL.

    None: it is called directly.

    `HTTP_PROXY` or `HTTPS_PROXY`, else `ALL_PROXY`, in either case of letters, unless `NO_PROXY`
    names the host: as curl and httpx take them.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if is_loopback(parts.hostname or ""):
        return None
    from urllib.request import getproxies_environment, proxy_bypass  # loads http.client

    proxies = getproxies_environment()
    if proxy_bypass(parts.hostname or "", proxies):
        return None
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def by_way_of(url: str) -> str:
    """The end of a sentence about a call that failed: by which proxy it went; empty: by none."""
    proxy = proxy_for(url)
    return "" if not proxy else f" by way of the proxy {redact(proxy)}, which the environment names"
