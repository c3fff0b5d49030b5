"""Serving what lies in object storage.

The files of predictions by their secret addresses, and the contents of large fields to whoever may
read the record.
"""

from typing import IO, Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from tidings.gateway.api.predictions import Records, may_read
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Handler, Problem, not_found
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import is_group, orders_for_readers
from tidings.streams.archive.content_types import HEAD, shown_inline, sniff
from tidings.streams.archive.paths import is_asset_path
from tidings.streams.rules import large_fields as blobs

LINK_LIVES = 3600
"""Seconds that an address at a cloud holds; browsers come back to ours for another one."""
_LINK_CACHED = 1800
_WHOLE = 4 * 1024 * 1024
"""Bytes of a content that is sent in one piece."""

logger = get_logger(__name__)

_NOSNIFF = {"X-Content-Type-Options": "nosniff"}


class _File(web.FileResponse):
    """A file, which the kernel sends where the connection is ours."""

    async def _sendfile(
        self, request: web.BaseRequest, fobj: IO[Any], offset: int, count: int
    ) -> AbstractStreamWriter:
        if request.transport is not None:
            return await super()._sendfile(request, fobj, offset, count)
        writer = await web.StreamResponse.prepare(self, request)
        assert writer is not None
        return await self._sendfile_fallback(writer, fobj, offset, count)


def asset_headers(head: bytes) -> dict[str, str]:
    """What goes with a file that begins so: a browser shows it, and runs nothing of it."""
    content_type = sniff(head)
    headers = {
        **_NOSNIFF,
        "Content-Type": f"{content_type}; charset=utf-8"
        if content_type.startswith("text/")
        else content_type,
        "Cache-Control": "public, max-age=31536000, immutable",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        # Their addresses are secrets, and made to be shown in pages of any origin.
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Referrer-Policy": "no-referrer",
    }
    if not shown_inline(content_type):
        headers["Content-Disposition"] = "attachment"
    return headers


def asset_handler(guard: RequestGuard, objects: ObjectStorage | None) -> Handler:
    """The handler of `GET /assets/{path}`; without object storage there are no files."""

    async def asset(request: web.Request) -> web.StreamResponse:
        guard.check(request)
        path = request.match_info["path"]
        if objects is None or not is_asset_path(path):
            raise _no_file()
        if (link := await objects.link(path, LINK_LIVES)) is not None:
            headers = {
                **_NOSNIFF,
                "Location": link,
                "Cache-Control": f"private, max-age={_LINK_CACHED}",
            }
            return web.Response(status=302, headers=headers)
        head = await objects.get(path, HEAD)
        if head is None:
            raise _no_file()
        headers = asset_headers(head)
        file = objects.local_path(path)
        if file is not None:
            response = _File(file, headers=headers)
            response.content_type = headers["Content-Type"].partition(";")[0]
            return response
        return web.Response(body=await objects.get(path), headers=headers)

    return asset


def blob_handler(guard: RequestGuard, records: Records, objects: ObjectStorage | None) -> Handler:
    """The handler of `GET /api/predictions/{id}/blobs/{hash}`."""

    async def blob(request: web.Request) -> web.StreamResponse:
        permissions = await guard.authenticate(request)
        prediction_id, name = request.match_info["id"], request.match_info["hash"]
        stored = await records.find(prediction_id)
        if not may_read(permissions, prediction_id, stored):
            raise not_found()
        if objects is None or not blobs.valid_hash(name):
            raise _no_content()
        part = stored is not None and b'{"hash":"%s"' % name.encode() in stored.encoded
        headers = {
            **_NOSNIFF,
            "Content-Type": "text/plain; charset=utf-8" if part else "application/json",
            "ETag": f'"{name}"',
            "Cache-Control": "private, max-age=31536000, immutable",
        }
        if name in request.headers.get("If-None-Match", ""):
            return web.Response(
                status=304,
                headers={"ETag": headers["ETag"], "Cache-Control": headers["Cache-Control"]},
            )
        path = blobs.path(prediction_id, name)
        if stored is not None and is_group(stored.encoded):
            # Its orders name servers that are told of its members.
            if (content := await objects.get(path)) is None:
                raise _no_content()
            return web.Response(body=orders_for_readers(content), headers=headers)
        return await _send(request, objects, path, headers)

    return blob


async def _send(
    request: web.Request, objects: ObjectStorage, path: str, headers: dict[str, str]
) -> web.StreamResponse:
    found = await objects.find(path)
    if found is None:
        raise _no_content()
    if found.size <= _WHOLE:
        content = await objects.get(path)
        if content is None:
            raise _no_content()
        return web.Response(body=content, headers=headers)
    response = web.StreamResponse(headers={**headers, "Content-Length": str(found.size)})
    await response.prepare(request)
    try:
        async for chunk in objects.stream(path):
            await response.write(chunk)
    except StorageError as error:
        # The answer has begun: that it ends too early tells the client of the failure.
        logger.warning("assets.store_failed", error=str(error))
        request.protocol.force_close()
        return response
    await response.write_eof()
    return response


def _no_file() -> Problem:
    return Problem(
        404,
        "not-found",
        "File not found",
        "There is no such file, or no more; read the prediction again.",
    )


def _no_content() -> Problem:
    return Problem(
        404,
        "not-found",
        "Content not found",
        "The prediction refers to no such content; read the prediction again.",
    )
