"""What an ASGI scope says of a request: its address below the mount, its headers, its client. Pure."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PATH_SAFE = "/!$&'()*+,;=:@-._~"
"""What stays as it is in a path (RFC 3986, 3.3)."""


def mounted_path(scope: Scope, prefix: str = "") -> str:
    """The path below the mount, percent-encoded as it came.

    A host tells where it has mounted us in `root_path`; the path may hold it still (Starlette, and
    the specification) or not (Litestar, which ends it with a slash, too).

    Args:
        scope: Of the request.
        prefix: Below which we are beside that, such as `/predictions`.
    """
    mounts = [mount for mount in (scope.get("root_path", ""), prefix) if mount]
    path: str = scope["path"]
    for mount in mounts:
        path = _below(path, mount)
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path is None:
        return quote(path, safe=_PATH_SAFE)
    raw = raw_path.partition(b"?")[0].decode("latin-1")
    for mount in mounts:
        raw = _below(raw, quote(mount, safe=_PATH_SAFE))
    if raw == path:  # the ordinary case
        return path
    # What a host took away from the path alone lies in front.
    wanted = path.rstrip("/")
    for start in range(len(raw)):
        if raw[start] == "/" and unquote(raw[start:]).rstrip("/") == wanted:
            return raw[start:]
    return quote(path, safe=_PATH_SAFE)


def _below(path: str, mount: str) -> str:
    if path.startswith(mount) and path[len(mount) : len(mount) + 1] in ("", "/"):
        return path[len(mount) :] or "/"
    return path


def mount_of(scope: Scope, prefix: str = "") -> str:
    """What stands before our own addresses in links, without a slash at its end."""
    root: str = scope.get("root_path", "").rstrip("/")
    return root if not prefix or root.endswith(prefix) else root + prefix


def client_of(scope: Scope) -> str:
    """The address at the other end of the connection; empty if the server does not tell it."""
    client = scope.get("client")
    return client[0] if client else ""
