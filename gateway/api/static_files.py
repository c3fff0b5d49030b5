"""The page and the browser client: files of the package, under a strict Content-Security-Policy."""

import mimetypes
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

import msgspec
from aiohttp import web

from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Handler, Problem

INDEX, DOCS = "index.html", "docs.html"

_TYPES = {".js": "text/javascript; charset=utf-8", ".ts": "text/plain; charset=utf-8"}
_HIDDEN = (".py", ".pyc")


class Page:
    """One file, ready to be sent."""

    def __init__(self, name: str, content: bytes, policy: str) -> None:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        self.content = content
        self.etag = f'"{sha256(content).hexdigest()[:32]}"'
        self.headers = {
            "Content-Type": _TYPES.get(name[name.rfind(".") :], kind),
            "ETag": self.etag,
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "X-Frame-Options": "DENY",
        }


def policy(image_sources: tuple[str, ...] = ()) -> str:
    """The Content-Security-Policy of the page: all from here, pictures and players from wherever they are."""
    files = " ".join(("'self'", "https:", "data:", "blob:", *image_sources))
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {files}; connect-src 'self'; "
        f"font-src 'self'; media-src {files}; manifest-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def load_pages(image_sources: tuple[str, ...] = ()) -> dict[str, Page]:
    """The files of `gateway/static`, by their path below it."""
    rules = policy(image_sources)
    return {
        path: Page(path, content, rules)
        for path, content in _walk(files("tidings.gateway") / "static", "")
    }


def page_handler(
    guard: RequestGuard, image_sources: tuple[str, ...] = (), index: str = INDEX
) -> Handler:
    """The handler of `GET /`, `GET /docs` and `GET /static/{path}`.

    Args:
        guard: Who may come in.
        image_sources: More sources of pictures for the page's Content-Security-Policy.
        index: The file that is served if no path is asked for.
    """
    pages = load_pages(image_sources)

    async def page(request: web.Request) -> web.StreamResponse:
        guard.check(request)
        found = pages.get(request.match_info.get("path", index))
        if found is None:
            raise Problem(
                404, "not-found", "Page not found", "There is no such file; the page is at /."
            )
        if request.headers.get("If-None-Match") == found.etag:
            return web.Response(
                status=304, headers={"ETag": found.etag, "Cache-Control": "no-cache"}
            )
        return web.Response(body=found.content, headers=found.headers)

    return page


def document_handler(guard: RequestGuard, document: Callable[[], object]) -> Handler:
    """The handler of a document that is made once, and sent as JSON."""

    @cache
    def body() -> bytes:  # when it is first asked for: the two are a tenth of the start
        return msgspec.json.format(msgspec.json.encode(document()), indent=1)

    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}

    async def serve(request: web.Request) -> web.StreamResponse:
        guard.check(request)
        return web.Response(body=body(), headers=headers, content_type="application/json")

    return serve


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.endswith(_HIDDEN) and not entry.name.startswith("."):
            yield prefix + entry.name, entry.read_bytes()
