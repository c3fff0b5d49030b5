"""Keeping the files of finished predictions, over real HTTP on loopback."""

import asyncio
import base64
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.support.clock import ManualClock
from tests.support.conditions import eventually
from tests.support.streams.archive import KEY, SOON, archiving
from tests.unit.streams.archive.test_downloader import (
    PICTURE,
    Site,
    endless,
    gone,
    picture,
    redirect,
    unavailable,
)
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.store import Stored
from tidings.streams.archive import transfer
from tidings.streams.archive.downloader import Limits
from tidings.streams.archive.garbage_collector import PARTS, GarbageCollector
from tidings.streams.archive.output_urls import MAX_OUTPUTS
from tidings.streams.archive.paths import AssetPaths, index_of, is_asset_path
from tidings.streams.archive.transfer import RetryPolicy
from tidings.streams.log.memory import MemoryLog
from tidings.streams.rules import large_fields as blobs

NAMES = AssetPaths(KEY)


def listed(raw: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode(raw)
    return found


async def test_a_finished_picture_gets_a_lasting_address() -> None:
    """The success is told at once.

    Then the record has the file's address, type, size and source, and the file lies there.
    """
    async with Site(picture).open() as site, archiving(site.place) as at:
        url = f"http://{site.place}/a.png"
        await at.send({"status": "succeeded", "output": [url], "imageUrl": url})
        record = await at.dealt_with()
        path = f"{NAMES.folder('p1', record.created_at)}/0"
        assert listed(record.assets) == [
            {
                "url": f"/assets/{path}",
                "path": path,
                "contentType": "image/png",
                "bytes": len(PICTURE),
                "source": url,
            }
        ]
        assert (record.image_url, record.image_path) == (f"/assets/{path}", path)
        assert is_asset_path(path)
        assert (await at.files())[path] == PICTURE
        versions = [change.version for change in await at.pipe.changes()]
        assert versions == [1, 2]


async def test_every_file_of_an_output_is_kept() -> None:
    """Lists, objects, what is nested, `data:` URIs and a file that is named twice.

    Each once, in order.
    """
    data = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    async with Site(picture).open() as site, archiving(site.place) as at:
        one, two = f"http://{site.place}/1", f"http://{site.place}/2"
        await at.send(
            {
                "status": "succeeded",
                "output": {"images": [{"url": one}, {"url": two}], "x": [data, one]},
            }
        )
        record = await at.dealt_with()
        assert [asset["source"] for asset in listed(record.assets)] == [
            one,
            two,
            "data:image/png;base64",
        ]
        assert {asset["bytes"] for asset in listed(record.assets)} == {len(PICTURE)}
        assert sorted(site.asked) == ["/1", "/2"]


async def test_a_large_output_is_looked_into() -> None:
    """Sound as a `data:` URI of two megabytes passes as a large field, and becomes a file."""
    sound = b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(1_500_000)
    data = "data:audio/wav;base64," + base64.b64encode(sound).decode()
    async with archiving() as at:
        await at.send({"status": "succeeded", "output": data})
        record = await at.dealt_with()
        (asset,) = listed(record.assets)
        assert (asset["contentType"], asset["bytes"]) == ("audio/wav", len(sound))
        assert blobs.reference(record.output) is not None
        assert (await at.files())[asset["path"]] == sound


async def test_a_large_file_streams_through() -> None:
    """A file that is larger than what is held in memory arrives whole."""
    body = PICTURE + bytes(12_000_000) + b"end"

    async def large(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    async with Site(large).open() as site, archiving(site.place) as at:
        await at.send({"status": "succeeded", "output": f"http://{site.place}/large"})
        (asset,) = listed((await at.dealt_with()).assets)
        assert asset["bytes"] == len(body)
        assert (await at.files())[asset["path"]] == body


@pytest.mark.parametrize("mode", ["after", "before"])
async def test_what_is_refused_says_why(mode: str) -> None:
    """An address inside the network is not fetched.

    The record says so: after the end, or as its failure.
    """
    async with Site(picture).open() as secret, archiving(mode=mode) as at:
        await at.send({"status": "succeeded", "output": f"http://{secret.place}/a"}, mode=mode)
        record = await at.dealt_with()
        assert record.assets_error is not None
        assert "loopback" in record.assets_error
        assert record.status == ("succeeded" if mode == "after" else "failed")
        assert record.error == (
            None if mode == "after" else f"Processing failed: {record.assets_error}"
        )
        assert secret.asked == []
        await at.idle()
        assert record.pending is None


async def test_a_redirect_inside_is_refused_in_the_record() -> None:
    """What a trusted place redirects to is judged, and the reason kept."""
    async with (
        Site(picture).open() as secret,
        Site(redirect(f"http://{secret.place}/")).open() as site,
        archiving(site.place) as at,
    ):
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a"})
        assert "loopback" in ((await at.dealt_with()).assets_error or "")
        assert secret.asked == []


async def test_before_holds_the_success_until_the_file_is_there() -> None:
    """In mode `before` the record is processing, pending a success, until its file is stored.

    Nobody sees it earlier.
    """
    proceed = asyncio.Event()

    async def slow(_request: web.Request) -> web.StreamResponse:
        await proceed.wait()
        return web.Response(body=PICTURE)

    async with Site(slow).open() as site, archiving(site.place, mode="before") as at:
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a"}, mode="before")
        await eventually(lambda: site.asked)
        waiting = await at.pipe.prediction()
        assert (waiting.status, waiting.pending) == ("processing", "succeeded")
        proceed.set()
        record = await at.dealt_with()
        assert (record.status, record.pending) == ("succeeded", None)
        assert record.image_url is not None
        assert record.image_url.startswith("/assets/")
        assert [c.status for c in await at.pipe.changes()] == ["processing", "succeeded"]


async def test_before_does_not_wait_for_nothing() -> None:
    """A success without files is applied in mode `before` as well."""
    async with archiving(mode="before") as at:
        await at.send({"status": "succeeded", "output": "just words"}, mode="before")
        record = await at.dealt_with()
        assert (record.status, bytes(record.assets)) == ("succeeded", b"[]")


@pytest.mark.parametrize("mode", ["after", "before"])
async def test_a_list_of_files_that_the_log_does_not_take(mode: str) -> None:
    """Where the list of the kept files is larger than a record may be, the record says so, and the archiver goes on."""
    async with archiving(log=MemoryLog(max_body=1), mode=mode) as at:
        await at.send(
            {"status": "succeeded", "output": [f"data:,{i}" for i in range(400)]}, mode=mode
        )
        record = await at.dealt_with()
        assert record.assets_error is not None
        assert record.assets_error.startswith(
            "the list of 400 files is larger than TIDINGS_MAX_BODY ("
        )
        assert (record.status, bytes(record.assets)) == (
            "succeeded" if mode == "after" else "failed",
            b"",
        )
        await at.send({"status": "succeeded", "output": ["data:,one"]}, key="p2", mode=mode)
        assert len(listed((await at.dealt_with("p2")).assets)) == 1
        await at.idle()


async def test_off_keeps_nothing() -> None:
    """In mode `off` nobody asks for the file."""
    async with Site(picture).open() as site, archiving(site.place, mode="off") as at:
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a"}, mode="off")
        await at.idle()
        assert site.asked == []
        assert not (await at.pipe.prediction()).assets


async def test_a_server_that_fails_is_asked_again() -> None:
    """503 and a broken connection are tried again, and in the end the file is there, once."""
    left = [unavailable, unavailable, picture]

    async def recovering(request: web.Request) -> web.StreamResponse:
        return await (left.pop(0) if left else picture)(request)

    async with Site(recovering).open() as site, archiving(site.place) as at:
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a"})
        record = await at.dealt_with()
        assert len(listed(record.assets)) == 1
        assert len(site.asked) == 3


async def test_one_lost_file_does_not_lose_the_others() -> None:
    """Of three files one is gone.

    Two are kept, and the record says which one is missing and why.
    """

    async def some(request: web.Request) -> web.StreamResponse:
        return await (gone if request.path == "/2" else picture)(request)

    async with Site(some).open() as site, archiving(site.place) as at:
        urls = [f"http://{site.place}/{n}" for n in (1, 2, 3)]
        await at.send({"status": "succeeded", "output": urls})
        record = await at.dealt_with()
        assert [asset["source"] for asset in listed(record.assets)] == [urls[0], urls[2]]
        assert record.assets_error == "output 1: 127.0.0.1 answers 404"
        assert site.asked.count("/2") == SOON.tries
        assert site.asked.count("/1") == site.asked.count("/3") == 1


async def test_a_dead_server_is_given_up_in_time() -> None:
    """What cannot be had long after the prediction's end has failed for good, and is left alone then."""
    retry = RetryPolicy(first=0.02, longest=0.02, until=0, tries=3)
    async with Site(unavailable).open() as site, archiving(site.place, retry=retry) as at:
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a"})
        assert (await at.dealt_with()).assets_error == "127.0.0.1 answers 503"
        await at.send({"status": "succeeded", "progress": 1})
        await at.idle()
        assert len(site.asked) == 3


async def test_an_endless_body_ends() -> None:
    """A body without an end is cut off at the limit; nothing of it stays."""
    async with (
        Site(endless).open() as site,
        archiving(site.place, limits=Limits(bytes=9_000_000)) as at,
    ):
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a"})
        assert "larger" in ((await at.dealt_with()).assets_error or "")
        assert [path for path in await at.files() if is_asset_path(path)] == []


async def test_an_outage_of_the_object_storage_is_waited_out() -> None:
    """While files cannot be put the record waits; afterwards they are there."""

    class Away(ObjectStorage):
        left = 3

        async def put(self, path: str, data: bytes, headers: Any = None) -> None:
            if self.left:
                self.left -= 1
                raise StoreUnavailable("the bucket is away")
            await super().put(path, data, headers)

    async with Site(picture).open() as site, archiving(site.place, objects=Away("memory://")) as at:
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a"})
        assert len(listed((await at.dealt_with()).assets)) == 1
        await eventually(lambda: at.archiver.obstacle is None)


async def test_files_go_with_their_prediction() -> None:
    """A deleted prediction's files and large fields are removed; another's stay."""
    large = "x" * 40_000
    async with Site(picture).open() as site, archiving(site.place) as at:
        for key in ("p1", "p2"):
            event = {
                "status": "succeeded",
                "output": f"http://{site.place}/a",
                "payload": {"a": large},
            }
            await at.send(event, key=key)
            await at.dealt_with(key)
        before = await at.files()
        assert len(before) == 8
        await at.send({"type": "delete"})
        await eventually(lambda: _count(at, 4), 20)
        kept = await at.pipe.prediction("p2")
        blob = blobs.reference(kept.payload)
        assert blob is not None
        assert blobs.path("p2", blob.hash) in await at.files()


async def _count(at: Any, count: int) -> bool:
    return len(await at.files()) == count


async def test_an_id_used_again_shows_no_old_picture() -> None:
    """After a deletion the id's next prediction has another folder, and loses nothing when the deletion is seen late."""
    async with Site(picture).open() as site, archiving(site.place) as at:
        url = f"http://{site.place}/a"
        await at.send({"status": "succeeded", "output": url, "at": 1_764_000_000_000})
        first = await at.dealt_with()
        await at.send({"type": "delete"})
        await eventually(lambda: _count(at, 0), 20)
        await at.send({"type": "create", "id": "again"}, {"status": "succeeded", "output": url})
        second = await at.dealt_with()
        assert first.image_path != second.image_path
        assert second.image_path in await at.files()


async def test_a_deletion_seen_late_takes_nothing_of_the_next_one() -> None:
    """Removing again what an earlier prediction with this id had leaves the files and fields of the one that stands."""
    async with Site(picture).open() as site, archiving(site.place) as at:
        await at.send(
            {
                "status": "succeeded",
                "output": f"http://{site.place}/a",
                "payload": {"a": "x" * 40_000},
            }
        )
        await at.dealt_with()
        before = await at.files()
        assert len(before) == 4
        await at.objects.put("index/" + index_of("p1").rpartition("/")[2] + "/" + "0" * 40, b"")
        await at.objects.put("0" * 40 + "/0", b"old")
        await at.archiving.remove("p1", int(time.time() * 1000) + 60_000)
        assert await at.files() == before


async def test_a_late_word_about_an_earlier_prediction_is_left() -> None:
    """An `archive` about the files of the id's earlier prediction changes nothing."""
    async with archiving(mode="off") as at:
        await at.send({"status": "succeeded", "at": 1_764_000_000_000})
        await at.send(
            {"type": "archive", "createdAt": 1_763_000_000_000, "assets": [{"url": "/assets/old"}]}
        )
        await at.pipe.settled()
        assert not (await at.pipe.prediction()).assets


async def test_what_lies_there_counts_where_the_link_has_died() -> None:
    """A file stored before a crash is used, should its link be dead by the time of the repeat."""
    async with Site(gone).open() as site, archiving(site.place) as at:
        created = 1_764_000_000_000
        path = f"{NAMES.folder('p1', created)}/0"
        await at.objects.put(path, PICTURE)
        await at.send({"status": "succeeded", "output": f"http://{site.place}/a", "at": created})
        (asset,) = listed((await at.dealt_with()).assets)
        assert (asset["path"], asset["contentType"], asset["bytes"]) == (
            path,
            "image/png",
            len(PICTURE),
        )


async def test_archiving_goes_on_where_it_was_left() -> None:
    """An archiver that is stopped half way leaves its work to the next one.

    Every file is there once afterwards.
    """
    log, store, objects = MemoryLog(), MemoryStore(), ObjectStorage("memory://")
    hold = asyncio.Event()

    async def halting(request: web.Request) -> web.StreamResponse:
        if int(request.path[1:]) >= 10:
            await hold.wait()
        return web.Response(body=PICTURE)

    async with Site(halting).open() as site:
        async with archiving(site.place, log=log, store=store, objects=objects) as at:
            for n in range(20):
                await at.send(
                    {"status": "succeeded", "output": f"http://{site.place}/{n}"}, key=f"p{n}"
                )
            await eventually(lambda: at.archiver.done >= 5, 20)
        hold.set()
        async with archiving(site.place, log=log, store=store, objects=objects) as at:
            for n in range(20):
                assert len(listed((await at.dealt_with(f"p{n}")).assets)) == 1
            await at.idle()
            assert sum(1 for path in await at.files() if is_asset_path(path)) == 20
            assert {(await at.pipe.prediction(f"p{n}")).version for n in range(20)} == {2}


async def test_files_go_after_their_time(tmp_path: Path) -> None:
    """With a time to live files and their index go once it is over, and large fields stay."""
    objects = ObjectStorage(f"file:///{tmp_path}")
    async with Site(picture).open() as site, archiving(site.place, objects=objects) as at:
        await at.send(
            {
                "status": "succeeded",
                "output": f"http://{site.place}/a",
                "payload": {"a": "x" * 40_000},
            }
        )
        record = await at.dealt_with()
        assert record.image_path is not None
        assert (tmp_path / record.image_path).read_bytes() == PICTURE
        stored = (tmp_path / record.image_path).stat().st_mtime
        for age, removed in ((5, 0), (20, 1)):
            sweep = GarbageCollector(
                objects,
                at.pipe.store.load,
                assets_ttl=10,
                clock=ManualClock(int((stored + age) * 1000)),
            )
            assert await sweep.remove_expired_files() == removed
        assert {path.partition("/")[0] for path in await at.files()} == {"blobs"}


@pytest.mark.parametrize("output", [True, False])
async def test_files_of_a_prediction_that_was_replaced_within_a_batch_go(output: bool) -> None:
    """Deleted and begun anew in one batch, no deletion is announced.

    The sweep removes the old files, and those alone.
    """
    async with Site(picture).open() as site, archiving(site.place) as at:
        for key in ("p1", "p2"):
            url = f"http://{site.place}/old"
            await at.send(
                {"status": "succeeded", "output": url, "payload": {"a": "x" * 40_000}}, key=key
            )
        old, other = await at.dealt_with(), await at.dealt_with("p2")
        await at.idle()
        before = len(await at.pipe.changes())
        again: dict[str, Any] = {
            "type": "create",
            "id": "c2",
            "at": old.created_at + 1,
            "status": "succeeded",
        }
        if output:
            again["output"] = f"http://{site.place}/new"
        await at.send({"type": "delete"}, again)
        await at.idle()
        news = [
            change for change in (await at.pipe.changes())[before:] if change.prediction_id == "p1"
        ]
        assert not news[0].deleted, "two batches: nothing was tried"
        record = await at.pipe.prediction("p1")
        assert f"{NAMES.folder('p1', old.created_at)}/0" in await at.files()
        sweep = GarbageCollector(
            at.objects,
            at.pipe.store.load,
            transfer=at.archiving,
            clock=ManualClock(SYSTEM_CLOCK.ms() + 3_600_000),
        )
        removed = [await sweep.remove_replaced_files() for _ in range(PARTS)]
        assert sum(removed) == 1
        kept = {path for path in await at.files() if is_asset_path(path)}
        mine = {record.image_path} if output else set()
        assert kept == mine | {other.image_path}
        contents = {
            path.rpartition("/")[0]
            for path in await at.files()
            if not path.endswith(f"/{blobs.NOTE}")
        }
        assert blobs.folder("p1") not in contents
        assert blobs.folder("p2") in contents


async def test_large_fields_go_when_their_record_was_purged() -> None:
    """Long after its last change a record may be gone.

    Its contents go then, and those of a standing record stay.
    """
    async with archiving() as at:
        for key in ("p1", "p2"):
            await at.send({"status": "processing", "payload": {"a": "x" * 40_000}}, key=key)
        await at.pipe.settled()

        async def load(ids: Sequence[str]) -> dict[str, Stored]:
            there = await at.pipe.store.load(ids)
            return {name: stored for name, stored in there.items() if name != "p1"}

        for age, removed in ((5, 0), (20, 1)):
            clock = ManualClock(SYSTEM_CLOCK.ms() + age * 1000)
            assert (
                await GarbageCollector(
                    at.objects, load, records_live=10, clock=clock
                ).remove_orphaned_fields()
                == removed
            )
        assert {path.rpartition("/")[0] for path in await at.files()} == {blobs.folder("p2")}


async def test_nobody_can_guess_an_address() -> None:
    """Folders depend on key, id and time, each of them."""
    folders = {
        AssetPaths(key).folder(name, at)
        for key in (b"k1", b"k2")
        for name in ("p1", "p2")
        for at in (1, 2)
    }
    assert len(folders) == 8
    for path in (
        "blobs/x/0",
        "index/x",
        "../0",
        f"{'a' * 40}/0/../1",
        f"{'a' * 40}/00",
        f"{'a' * 40}",
        f"{'A' * 40}/0",
    ):
        assert not is_asset_path(path)


async def test_more_files_than_are_kept() -> None:
    """An output with too many links says so in the record, and not one of them is fetched."""
    async with Site(picture).open() as site, archiving(site.place) as at:
        links = [f"http://{site.place}/{number}" for number in range(MAX_OUTPUTS + 1)]
        await at.send({"status": "succeeded", "output": links})
        record = await at.dealt_with()
        assert record.assets_error == f"over {MAX_OUTPUTS} files, and at most so many are kept"
        assert site.asked == []


async def test_all_files_of_a_prediction_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once those that are kept have too many bytes in all, the rest is left out with that reason."""
    monkeypatch.setattr(transfer, "MOST_BYTES", len(PICTURE) * 3)
    async with Site(picture).open() as site, archiving(site.place) as at:
        links = [f"http://{site.place}/{number}" for number in range(3 * transfer.TRANSFERS)]
        await at.send({"status": "succeeded", "output": links})
        record = await at.dealt_with()
        assert "have over" in (record.assets_error or "")
        assert len(site.asked) == len(listed(record.assets)) == 2 * transfer.TRANSFERS
