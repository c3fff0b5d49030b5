"""Object storage: files by path, in a folder or at a cloud provider.

The driver is imported, and a folder made, when the first object is asked for or put.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.extras import missing
from tidings.storage.private_files import FILE_MODE, make_folder

PART = 5 * 1024 * 1024
"""Bytes of a part of a large upload; S3 takes none smaller, the last excepted."""
_PARTS_AT_ONCE = 2
_RETRIES = 2
_RETRY_SECONDS = 10
"""Of the driver itself; who calls has its own patience."""
_SETTINGS = frozenset(
    {"PermissionDeniedError", "UnauthenticatedError", "UnknownConfigurationKeyError"}
)
_FOR_GOOD = frozenset({"InvalidPathError", "NotSupportedError"})


class StoredObject(Struct, frozen=True, gc=False):
    """An object that is there."""

    path: str
    size: int
    modified_at: int
    """When it was written, in ms."""


def folder_of(url: str) -> Path | None:
    """The folder of a `file://` URL, where `%20` is a space.

    None: objects are not kept in files of this machine.
    """
    parts = urlsplit(url)
    return Path(unquote(parts.path[1:])) if parts.scheme == "file" else None


class ObjectStorage:
    """Objects under a URL.

    Methods raise `StoreUnavailable` if a retry helps, other `StorageError`s if not.

    Args:
        url: `file:///data/assets` (three slashes: relative to the working folder, four: absolute),
            `memory://` (lives as long as this object), `s3://bucket/prefix`, `gs://bucket/prefix`,
            `az://container/prefix`. Parameters of a cloud's URL are options of its driver
            (`?region=...&endpoint=...`); `public=` names the address where the objects can be read
            by everybody. Credentials come from the environment, as the clouds' own tools take them.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = url
        self.kind = parts.scheme
        """`file`, `memory`, `s3`, `gs` or `az`."""
        options = dict(parse_qsl(parts.query))
        self.public = options.pop("public", "").rstrip("/") or None
        """Where everybody can read the objects; None: nowhere but through this service."""
        self._options = options
        self._folder = folder_of(url)
        self._opened: Any = None

    def local_path(self, path: str) -> Path | None:
        """The file behind a path; None if objects are no files."""
        return None if self._folder is None else self._folder / path

    async def put(self, path: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Write an object whole, over whatever is there; it survives a loss of power.

        Args:
            path: Within the storage, with slashes.
            data: The content.
            headers: `Content-Type`, `Content-Disposition`, `Cache-Control`: kept if the storage
                keeps such.
        """
        await self._put(path, data, headers)

    async def put_stream(
        self, path: str, chunks: AsyncIterable[bytes], headers: Mapping[str, str] | None = None
    ) -> None:
        """Write an object that is too large for memory.

        What the chunks raise is raised, and nothing is written.
        """
        failure: list[BaseException] = []

        async def watched() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
            except BaseException as error:
                failure.append(error)
                raise

        try:
            await self._put(path, watched(), headers)
        except StorageError:
            if failure:
                raise failure[0] from None
            raise

    async def _put(
        self, path: str, data: bytes | AsyncIterator[bytes], headers: Mapping[str, str] | None
    ) -> None:
        obstore = _driver()

        store = self._store()
        attributes = dict(headers) if headers and self._folder is None else None
        try:
            if self._folder is not None:
                await asyncio.to_thread(make_folder, (self._folder / path).parent)
            await obstore.put_async(
                store,
                path,
                data,
                attributes=attributes,
                use_multipart=not isinstance(data, bytes),
                chunk_size=PART,
                max_concurrency=_PARTS_AT_ONCE,
            )
            if self._folder is not None:
                await asyncio.to_thread(_settle, self._folder / path)
        except Exception as error:
            self._raise(error)

    async def get(self, path: str, beginning: int | None = None) -> bytes | None:
        """An object, or its first `beginning` bytes; None if there is none."""
        obstore = _driver()

        try:
            if beginning is None:
                result = await obstore.get_async(self._store(), path)
                return bytes(await result.bytes_async())
            return bytes(
                await obstore.get_range_async(self._store(), path, start=0, length=beginning)
            )
        except FileNotFoundError:
            return None
        except Exception as error:
            self._raise(error)

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """The content in chunks."""
        obstore = _driver()

        try:
            result = await obstore.get_async(self._store(), path)
            async for chunk in result.stream(min_chunk_size=256 * 1024):
                yield bytes(chunk)
        except Exception as error:
            self._raise(error)

    async def find(self, path: str) -> StoredObject | None:
        """What is known of an object; None if there is none."""
        obstore = _driver()

        try:
            meta = await obstore.head_async(self._store(), path)
        except FileNotFoundError:
            return None
        except Exception as error:
            self._raise(error)
        return _found(meta)

    async def list(self, prefix: str | None = None) -> AsyncIterator[Sequence[StoredObject]]:
        """The objects below a folder, in portions; None: all."""
        obstore = _driver()

        try:
            async for portion in obstore.list(self._store(), prefix, chunk_size=500):
                yield [_found(meta) for meta in portion]
        except Exception as error:
            self._raise(error)

    async def link(self, path: str, seconds: int) -> str | None:
        """An address at the cloud where the object can be read for so long.

        None if it must go through us.
        """
        if self.kind not in {"s3", "gs", "az"}:
            return None
        obstore = _driver()

        try:
            signed: str = await obstore.sign_async(
                self._store(), "GET", path, timedelta(seconds=seconds)
            )
        except Exception as error:
            self._raise(error)
        return signed

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; those that are not there are left out."""
        obstore = _driver()

        if not paths:
            return
        try:
            if self._folder is None:
                await obstore.delete_async(self._store(), paths)
            else:
                await asyncio.to_thread(_unlink, [self._folder / path for path in paths])
        except FileNotFoundError:
            return
        except Exception as error:
            self._raise(error)

    async def delete_folder(self, prefix: str) -> None:
        """Remove every object below a folder, parts of interrupted uploads included."""
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder / prefix, ignore_errors=True)
            return
        async for portion in self.list(prefix):
            await self.delete([found.path for found in portion])

    async def check(self) -> None:
        """Write, read and remove a small object. Raises `StorageError` if that does not work."""
        path = f"check/{os.urandom(8).hex()}"
        await self.put(path, b"tidings")
        if await self.get(path) != b"tidings":
            raise StoreMisconfigured(
                f"the object storage {self.shown} gives back something else than was put there"
            )
        await self.delete([path])

    @property
    def shown(self) -> str:
        """The URL without its options."""
        return self._url.partition("?")[0]

    def _store(self) -> Any:
        store = self._opened
        if store is None:
            try:
                store = self._opened = self._open()
            except Exception as error:
                raise StoreMisconfigured(
                    f"the object storage {self.shown} cannot be opened: {_line(error)}; fix TIDINGS_ASSETS"
                ) from None
        return store

    def _open(self) -> Any:
        from obstore import store as stores

        if self._folder is not None:
            make_folder(self._folder)
            return stores.LocalStore(self._folder.absolute(), mkdir=True)
        if self.kind == "memory":
            return stores.MemoryStore()
        options: Any = self._options
        client: Any = {"timeout": "60s", "connect_timeout": "5s"}
        if options.get("endpoint", "").startswith("http://"):
            client["allow_http"] = True
        return stores.from_url(
            self.shown,
            config=options or None,
            client_options=client,
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
        )

    def _raise(self, error: Exception) -> NoReturn:
        if isinstance(error, StorageError):
            raise error
        kind = type(error).__name__
        text = f"the object storage {self.shown} failed: {_line(error)}"
        if kind in _SETTINGS:
            raise StoreMisconfigured(f"{text}; fix its credentials or rights") from None
        if kind in _FOR_GOOD:
            raise StorageError(text) from None
        raise StoreUnavailable(text) from None


def _driver() -> Any:
    """The driver, imported when an object is first asked for.

    Raises:
        StoreMisconfigured: It is not installed.
    """
    try:
        import obstore
    except ImportError as error:
        line = missing("object storage", error)
        raise StoreMisconfigured(line or str(error)) from error
    return obstore


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _found(meta: Any) -> StoredObject:
    return StoredObject(meta["path"], meta["size"], int(meta["last_modified"].timestamp() * 1000))


def _settle(file: Path) -> None:
    """Leave the file to its owner alone, and make sure that it, and its name, survive a loss of power."""
    file.chmod(FILE_MODE)
    for path, flags in ((file, os.O_RDONLY), (file.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unlink(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
