"""Files at a cloud: what the storage does over the real S3 protocol, and an archiver that works with it."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support import webhooks
from tests.support.broker import free_port
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.object_server import CREDENTIALS, KEY, ObjectServer
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, get, signed
from tests.unit.streams.archive.test_downloader import PICTURE, Site
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.object_storage import ObjectStorage

HTML = b"<html><script>alert(1)</script></html>"
PUBLIC = "everybody"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    running = ObjectServer(PUBLIC)
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture
def objects(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ObjectStorage:
    """A storage of the test's own."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    own = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return ObjectStorage(server.url("private", own))


async def paths(objects: ObjectStorage, prefix: str | None = None) -> list[str]:
    return sorted([found.path async for portion in objects.list(prefix) for found in portion])


# ---- the storage ----


async def test_what_is_put_is_there_until_it_is_removed(objects: ObjectStorage) -> None:
    """Whole, by its beginning, by its facts, in lists; over what was there; and gone alone or with its folder."""
    assert await objects.get("f/0") is None
    assert await objects.find("f/0") is None
    await objects.put("f/0", b"before")
    await objects.put("f/0", PICTURE)
    await objects.put("f/1", b"")
    await objects.put("g/0", b"other")
    assert await objects.get("f/0") == PICTURE
    assert await objects.get("f/0", 8) == PICTURE[:8]
    found = await objects.find("f/0")
    assert found is not None
    assert (found.path, found.size) == ("f/0", len(PICTURE))
    assert await paths(objects) == ["f/0", "f/1", "g/0"]
    assert await paths(objects, "f") == ["f/0", "f/1"]
    assert b"".join([chunk async for chunk in objects.stream("f/0")]) == PICTURE
    await objects.delete(["f/0", "nowhere"])
    assert await paths(objects) == ["f/1", "g/0"]
    await objects.delete_folder("f")
    await objects.delete_folder("f")
    assert await paths(objects) == ["g/0"]
    await objects.check()
    assert await paths(objects) == ["g/0"]


async def test_a_large_file_goes_up_in_parts(objects: ObjectStorage) -> None:
    """Twelve megabytes stream through, whole; an upload that breaks off leaves nothing to be read."""
    piece = bytes(range(256)) * 4096

    async def chunks(count: int, broken: bool) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece
        if broken:
            raise ConnectionResetError("the server has gone")

    await objects.put_stream("f/0", chunks(12, broken=False), {"Content-Type": "video/mp4"})
    assert await objects.get("f/0") == piece * 12
    with pytest.raises(ConnectionResetError):
        await objects.put_stream("f/1", chunks(12, broken=True))
    assert await objects.get("f/1") is None


async def test_a_private_file_is_read_by_a_signed_address_alone(objects: ObjectStorage) -> None:
    """The signed address gives it with its headers; without the signature, or with another, for another file: refused."""
    headers = {
        "Content-Type": "text/html",
        "Content-Disposition": "attachment",
        "Cache-Control": "public, max-age=9",
    }
    await objects.put("f/0", HTML, headers)
    await objects.put("f/1", b"another")
    link = await objects.link("f/0", 60)
    assert link is not None
    assert "X-Amz-Expires=60" in link
    async with aiohttp.ClientSession() as session:
        async with session.get(link) as answer:
            assert (answer.status, await answer.read()) == (200, HTML)
            for name, value in headers.items():
                assert answer.headers[name] == value
        bare = link.partition("?")[0]
        for wrong in (
            bare,
            link.replace("X-Amz-Signature=", "X-Amz-Signature=0"),
            link.replace("/f/0?", "/f/1?"),
        ):
            async with session.get(wrong) as answer:
                assert answer.status == 403, wrong


async def test_each_way_of_failing(
    server: ObjectServer, objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key is for somebody to mend, a server that is away may come back; both say which storage, and no secret."""
    await objects.put("f/0", b"x")
    away = ObjectStorage(f"s3://private?endpoint=http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable, match="s3://private"):
        await away.get("f/0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = ObjectStorage(server.url("private"))
    with pytest.raises(StoreMisconfigured, match="credentials") as caught:
        await stranger.put("f/0", b"y")
    assert "wrong" not in str(caught.value)
    odd = ObjectStorage(server.url("private") + "&colour=red")
    with pytest.raises(StoreMisconfigured, match="TIDINGS_ASSETS"):
        await odd.get("f/0")


# ---- the service ----


def settings_of(server: ObjectServer, site: Site, bucket: str, more: str = "") -> dict[str, str]:
    return {
        **CREDENTIALS,
        "TIDINGS_REPLICATE_SECRET": SECRET,
        "TIDINGS_ASSETS": server.url(bucket, "kept") + more,
        "TIDINGS_ASSETS_ALLOW": site.place,
    }


async def answer_by_name(request: web.Request) -> web.StreamResponse:
    """A picture, or a page that claims to be one."""
    page = request.path.endswith("page")
    return web.Response(body=HTML if page else PICTURE, content_type="image/png")


async def send(
    session: aiohttp.ClientSession, service: TidingsProcess, name: str, output: Any
) -> None:
    body = webhooks.report(name, output=output)
    async with session.post(
        f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
    ) as answer:
        assert answer.status == 200


async def kept(
    session: aiohttp.ClientSession, service: TidingsProcess, name: str
) -> dict[str, Any]:
    """The record, once its files are kept."""

    async def there() -> dict[str, Any]:
        record = await get(session, service.url, name)
        return record if record is not None and record.get("assets") else {}

    return await eventually(there, 60)


async def test_an_archiver_keeps_files_in_a_private_bucket(
    tmp_path: Path, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages get an address of ours that leads to a signed one; large fields lie there too; all go with the prediction."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    objects = ObjectStorage(server.url("files", "kept"))
    async with Site(answer_by_name).open() as site:
        settings = settings_of(server, site, "files")
        large = ["x" * 100_000, f"http://{site.place}/a", f"http://{site.place}/page"]
        async with serving(tmp_path, settings) as service, aiohttp.ClientSession() as session:
            await send(session, service, "p1", large)
            record = await kept(session, service, "p1")
            assert [asset["contentType"] for asset in record["assets"]] == [
                "image/png",
                "text/html",
            ]
            assert record["imageUrl"].startswith("/assets/")
            blob = record["output"]["$blob"]
            async with session.get(f"{service.url}/api/predictions/p1/blobs/{blob}") as answer:
                assert await answer.json() == large
            shown = []
            for asset in record["assets"]:
                async with session.get(service.url + asset["url"]) as answer:
                    assert str(answer.url).startswith(server.address)
                    disposition = answer.headers.get("Content-Disposition")
                    shown.append(
                        (answer.status, await answer.read(), answer.content_type, disposition)
                    )
            assert shown == [
                (200, PICTURE, "image/png", None),
                (200, HTML, "text/html", "attachment"),
            ]
            assert len(await paths(objects)) >= 4
            async with session.delete(f"{service.url}/api/predictions/p1") as answer:
                assert answer.status == 204
            await eventually(lambda: nothing(objects), 60)


async def nothing(objects: ObjectStorage) -> bool:
    return await paths(objects) == []


async def test_a_bucket_that_everybody_may_read(tmp_path: Path, server: ObjectServer) -> None:
    """With `public=` the record has the bucket's own addresses, which need no signature."""
    async with Site(answer_by_name).open() as site:
        settings = settings_of(server, site, PUBLIC, f"&public={server.address}/{PUBLIC}/kept")
        async with serving(tmp_path, settings) as service, aiohttp.ClientSession() as session:
            await send(session, service, "p1", f"http://{site.place}/a")
            record = await kept(session, service, "p1")
            assert record["imageUrl"].startswith(f"{server.address}/{PUBLIC}/kept/")
            async with session.get(record["imageUrl"]) as answer:
                assert (answer.status, await answer.read()) == (200, PICTURE)
                assert answer.content_type == "image/png"


async def test_a_cloud_that_is_away_for_a_while(tmp_path: Path) -> None:
    """What finishes meanwhile is kept when the cloud is back; the service lives and says what it waits for."""
    server = ObjectServer(PUBLIC)
    try:
        async with Site(answer_by_name).open() as site:
            settings = settings_of(server, site, "files")
            async with serving(tmp_path, settings) as service, aiohttp.ClientSession() as session:
                await send(session, service, "p1", f"http://{site.place}/a")

                async def waits() -> bool:
                    async with session.get(f"{service.url}/readyz") as answer:
                        return "object storage" in await answer.text()

                await eventually(waits, 60)
                server.start()
                record = await kept(session, service, "p1")
                assert "assetsError" not in record
    finally:
        server.close()


async def test_the_doctor_tries_the_bucket(tmp_path: Path, server: ObjectServer) -> None:
    """It puts, reads and removes an object, and says what to mend where that does not work."""
    settings = {**CREDENTIALS, "TIDINGS_ASSETS": server.url("files")}
    for more, state, says in (
        ({}, "ok", "put, read and removed"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "failed", "credentials"),
        (
            {"TIDINGS_ASSETS": f"s3://files?endpoint=http://127.0.0.1:{free_port()}"},
            "failed",
            "s3://files",
        ),
    ):
        ended = await tidings(tmp_path, "doctor", "--json", settings=settings | more)
        found = {one["part"]: one for one in ended.json["parts"]}["assets"]
        assert found["state"] == state, found
        assert says in found["says"]
        assert KEY not in found["says"]
