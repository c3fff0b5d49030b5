"""Serving files and large fields over a real port."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.storage.errors import StoreUnavailable
from tidings.storage.object_storage import ObjectStorage
from tidings.streams.rules import large_fields as blobs

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"
FOLDER = "0123456789abcdef0123456789abcdef01234567"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(1000)
CONTENT = b'{"a":"' + b"x" * 5_000_000 + b'"}'
HASH = "sha256-" + "ab" * 32


@contextlib.asynccontextmanager
async def serving(
    objects: ObjectStorage, **settings: Any
) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    async with (
        small_service(objects=objects, **settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client


@pytest.fixture(params=["file", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStorage:
    return ObjectStorage(f"file:///{tmp_path}" if request.param == "file" else "memory://")


async def test_a_picture_is_shown_and_cached_for_ever(objects: ObjectStorage) -> None:
    """Its type is that of its bytes, never to be guessed at by browsers, and it never changes."""
    await objects.put(f"{FOLDER}/0", PICTURE)
    async with serving(objects) as (_, client):
        answer = await client.get(f"/assets/{FOLDER}/0")
        assert (answer.status_code, answer.content) == (200, PICTURE)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in answer.headers["cache-control"]
        assert "content-disposition" not in answer.headers


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html><script>alert(1)</script>", "text/html; charset=utf-8"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "image/svg+xml"),
        (b"%PDF-1.7", "application/pdf"),
        (bytes(range(256)), "application/octet-stream"),
    ],
)
async def test_what_could_run_in_a_page_is_a_download(
    objects: ObjectStorage, content: bytes, kind: str
) -> None:
    """HTML, SVG, PDF and what nobody knows are attachments, under a policy that runs nothing."""
    await objects.put(f"{FOLDER}/7", content)
    async with serving(objects) as (_, client):
        answer = await client.get(f"/assets/{FOLDER}/7")
        assert answer.content == content
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"] == "attachment"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_part_of_a_film_can_be_asked_for(tmp_path: Path) -> None:
    """Ranges are answered, so that players can seek; a known version is not sent again."""
    objects = ObjectStorage(f"file:///{tmp_path}")
    await objects.put(f"{FOLDER}/0", PICTURE)
    async with serving(objects) as (_, client):
        answer = await client.get(f"/assets/{FOLDER}/0", headers={"Range": "bytes=1-3"})
        assert (answer.status_code, answer.content) == (206, b"PNG")
        whole = await client.get(f"/assets/{FOLDER}/0")
        again = await client.get(
            f"/assets/{FOLDER}/0", headers={"If-None-Match": whole.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")


async def test_nothing_else_of_the_storage_is_served(tmp_path: Path) -> None:
    """Neither large fields, nor the index, nor files beside the folder can be had by an address."""
    objects = ObjectStorage(f"file:///{tmp_path / 'assets'}")
    (tmp_path / "secret").write_text("secret")
    await objects.put(f"{FOLDER}/0", PICTURE)
    await objects.put(blobs.path("p1", HASH), CONTENT)
    await objects.put(f"index/{FOLDER}/{FOLDER}", b"")
    tried = [
        "../secret",
        "..%2Fsecret",
        "%2e%2e/secret",
        f"{FOLDER}/../../secret",
        f"{FOLDER}%2F0",
        f"{FOLDER}/1",
        f"{FOLDER}/",
        FOLDER,
        f"{FOLDER.upper()}/0",
        blobs.path("p1", HASH),
        f"index/{FOLDER}/{FOLDER}",
        f"index/{FOLDER}",
        "",
    ]
    async with serving(objects) as (_, client):
        for path in tried:
            answer = await client.get(f"/assets/{path}")
            if answer.status_code == 200:
                assert (path, answer.content) == (f"{FOLDER}%2F0", PICTURE)
            else:
                assert answer.status_code == 404, path


async def test_a_large_field_is_read_whole(objects: ObjectStorage) -> None:
    """The content comes as the JSON it is, and is never asked for twice."""
    await objects.put(blobs.path("p1", HASH), CONTENT)
    await objects.put(blobs.path("p1", HASH.replace("ab", "cd")), b'"small"')
    async with serving(objects) as (service, client):
        await service.put(prediction("p1"))
        answer = await client.get(f"/api/predictions/p1/blobs/{HASH}")
        assert (answer.status_code, answer.content) == (200, CONTENT)
        assert answer.headers["content-type"] == "application/json"
        assert (
            await client.get(f"/api/predictions/p1/blobs/{HASH.replace('ab', 'cd')}")
        ).json() == "small"
        etag = answer.headers["etag"]
        again = await client.get(
            f"/api/predictions/p1/blobs/{HASH}", headers={"If-None-Match": etag}
        )
        assert (again.status_code, again.content) == (304, b"")
        for name in ("sha256-00", "x", HASH.replace("ab", "ef"), "..%2F..%2Fx", HASH + "0"):
            assert (await client.get(f"/api/predictions/p1/blobs/{name}")).status_code == 404, name


async def test_a_large_field_has_its_records_permission(objects: ObjectStorage) -> None:
    """Its owner and who may read all get it; to everybody else it does not exist, by whatever prediction they ask."""
    await objects.put(blobs.path("p1", HASH), CONTENT)

    def bearer(**claims: Any) -> dict[str, str]:
        token = jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")
        return {"Authorization": f"Bearer {token}"}

    async with serving(objects, authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (
        service,
        client,
    ):
        await service.put(prediction("p1", owner="ann"))
        await service.put(prediction("p2", owner="bob"))
        path = f"/api/predictions/p1/blobs/{HASH}"
        for who in ({"sub": "ann"}, {"scope": "read:all"}, {"predictions": ["p1"]}):
            assert (await client.get(path, headers=bearer(**who))).status_code == 200, who
        for who in ({"sub": "bob"}, {"scope": "write"}, {"predictions": ["p2"]}):
            assert (await client.get(path, headers=bearer(**who))).status_code == 404, who
        stolen = await client.get(f"/api/predictions/p2/blobs/{HASH}", headers=bearer(sub="bob"))
        assert stolen.status_code == 404
        assert (await client.get(path)).status_code == 401


async def test_a_content_that_breaks_off_is_followed_by_nothing(objects: ObjectStorage) -> None:
    """Where the storage fails in mid-content the connection is cut: no second answer is written into the first."""
    await objects.put(blobs.path("p1", HASH), CONTENT)
    whole = objects.stream

    async def half(path: str) -> AsyncIterator[bytes]:
        chunks = whole(path)
        yield await anext(chunks)
        raise StoreUnavailable("the disk is gone")

    objects.stream = half  # type: ignore[method-assign]
    async with serving(objects) as (service, _):
        await service.put(prediction("p1"))
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        path = f"/api/predictions/p1/blobs/{HASH}"
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            received = await reader.read()
        writer.close()
    head, _, content = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(CONTENT)}".encode() in head.lower()
    assert content
    assert CONTENT.startswith(content)
