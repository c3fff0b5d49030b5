"""Origins of web pages and packaged apps, compared by scheme, host and port (RFC 6454). Pure."""

import ipaddress
import re

OPAQUE = "null"
"""The origin of sandboxed frames and of some packaged apps: all of them have the same."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_NAME = re.compile(r"[a-z0-9._~-]+")


def canonical_origin(text: str) -> str | None:
    """An origin as two equal ones are both written; None if the text is no origin.

    Without the scheme's default port, in lower case, an international name as browsers send it
    (`https://xn--mnchen-3ya.example`), an IPv6 address in its short form.
    """
    scheme, separator, authority = text.strip().partition("://")
    scheme = scheme.lower()
    if not separator:
        return OPAQUE if scheme == OPAQUE else None
    if _SCHEME.fullmatch(scheme) is None:
        return None
    if scheme == "file" and not authority:
        return "file://"  # the pages of some Electron and Cordova apps
    found = host_and_port(authority, DEFAULT_PORTS.get(scheme))
    if found is None:
        return None
    host, port = found
    return (
        f"{scheme}://{host}"
        if port in {None, DEFAULT_PORTS.get(scheme)}
        else (f"{scheme}://{host}:{port}")
    )


def names_host(origin: str, host: str) -> bool:
    """Whether a page of this origin and a request's `Host` are one: by host and port.

    The scheme of the request is the page's: what ends TLS in front of us does not always tell it.

    Args:
        origin: As `canonical_origin` gives it.
        host: The header.
    """
    scheme, _, authority = origin.partition("://")
    default = DEFAULT_PORTS.get(scheme)
    return (
        default is not None
        and (found := host_and_port(host, default)) is not None
        and found == host_and_port(authority, default)
    )


def host_and_port(authority: str, default_port: int | None = None) -> tuple[str, int | None] | None:
    """The host, as `canonical_host` gives it, and the port; None if the text is no `host:port`."""
    host, port = authority, ""
    if (colon := authority.rfind(":")) > authority.rfind("]"):
        host, port = authority[:colon], authority[colon + 1 :]
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
            return None
    name = canonical_host(host)
    return None if name is None else (name, int(port) if port else default_port)


def canonical_host(host: str) -> str | None:
    """A host name or address without port, as two equal ones are both written; None: it is none."""
    host = host.strip().lower()
    if host.startswith("[") and host.endswith("]"):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    if not host.isascii():
        import idna  # only here: its tables are large, and few names need them

        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            return None
    return host if _NAME.fullmatch(host) else None
