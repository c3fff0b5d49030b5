"""The Python client on the real service: kills, restarts, tokens that expire."""

import asyncio
import time
from pathlib import Path

import jwt

from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tidings.client.client import Client, Deleted
from tidings.storage.prediction import Prediction, Status
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

SECRET = "a-secret-of-more-than-thirty-two-bytes"


async def report(folder: Path, *bodies: tuple[str, bytes]) -> None:
    """Append events, as another service would, whether or not the gateway runs."""
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    try:
        await log.append(EVENTS, [NewRecord(name.encode(), body) for name, body in bodies])
    finally:
        await log.close()


async def test_a_killed_service_leaves_no_gap(tmp_path: Path) -> None:
    """Over two kills, versions only rise, what happened meanwhile comes, and the deletion too."""
    async with (
        serving(tmp_path) as service,
        Client(service.url) as client,
        client.watch("p1", "p2") as watch,
    ):
        versions: dict[str, list[int]] = {"p1": [], "p2": []}
        ends: dict[str, object] = {}

        async def read() -> None:
            async for update in watch:
                versions[update.prediction_id].append(update.version)
                if isinstance(update, Deleted) or update.status.terminal:
                    ends[update.prediction_id] = update
                if len(ends) == 2 and isinstance(ends["p2"], Deleted):
                    return

        reading = asyncio.create_task(read())
        await report(
            tmp_path, ("p1", b'{"status": "processing"}'), ("p2", b'{"status": "processing"}')
        )
        await eventually(lambda: all(versions.values()), within=30)
        await service.kill()
        await report(tmp_path, ("p1", b'{"progress": 0.5}'))
        await service.start()
        await service.kill()
        await report(
            tmp_path,
            ("p1", b'{"status": "succeeded", "output": [1]}'),
            ("p2", b'{"type": "delete"}'),
        )
        await service.start()
        async with asyncio.timeout(60):
            await reading
        assert isinstance(ends["p1"], Prediction)
        assert ends["p1"].status is Status.SUCCEEDED
        assert bytes(ends["p1"].output) == b"[1]"
        for seen in versions.values():
            assert seen == sorted(set(seen))


async def test_tokens_are_renewed_on_the_open_connection(tmp_path: Path) -> None:
    """With tokens that live for two seconds a watch goes on for longer, without coming back."""
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        claims = {"sub": "alice", "exp": int(time.time()) + 2}
        return jwt.encode(claims, SECRET, algorithm="HS256")

    async with serving(tmp_path, {"TIDINGS_JWT_SECRET": SECRET}) as service:
        await report(tmp_path, ("p1", b'{"status": "processing", "owner": "alice"}'))
        async with (
            Client(service.url, token) as client,
            client.watch("p1") as watch,
            asyncio.timeout(60),
        ):
            first = await anext(watch)
            waiting = asyncio.ensure_future(anext(watch))
            await eventually(lambda: asked >= 3, within=30)
            await report(tmp_path, ("p1", b'{"status": "failed", "error": "no"}'))
            last = await waiting
        assert (first.version, last.version) == (1, 2)


async def test_an_end_during_a_cut_is_found_among_thousands(tmp_path: Path) -> None:
    """A wide watch hears of an end during a cut, also of a prediction that was quiet while thousands changed."""
    quiet = f"{'q' * 30}-quiet"
    others = [f"{'o' * 30}-{number:05}" for number in range(2500)]
    async with (
        serving(tmp_path) as service,
        Client(service.url) as client,
        client.watch(all=True, limit=10) as watch,
    ):
        left = {quiet, *others}
        ended: list[Prediction] = []

        async def read() -> None:
            async for update in watch:
                left.discard(update.prediction_id)
                if isinstance(update, Prediction) and update.status.terminal:
                    ended.append(update)
                    return

        reading = asyncio.create_task(read())
        await eventually(lambda: watch.synced, within=30)
        await report(tmp_path, (quiet, b'{"status": "processing"}'))
        await eventually(lambda: quiet not in left, within=30)
        await report(tmp_path, *[(name, b'{"status": "processing"}') for name in others])
        await eventually(lambda: not left, within=60)
        await service.kill()
        await report(tmp_path, (quiet, b'{"status": "succeeded"}'))
        await service.start()
        async with asyncio.timeout(60):
            await reading
        assert [one.prediction_id for one in ended] == [quiet]


async def test_reads_and_writes(tmp_path: Path) -> None:
    """A record is read, listed, changed, canceled and deleted by the client's calls."""
    async with serving(tmp_path) as service, Client(service.url) as client:
        await report(
            tmp_path,
            ("a", b'{"type": "create", "model": "m", "prompt": "x"}'),
            ("b", b'{"tags": ["t"]}'),
        )
        async with client.watch("a", "b") as watch, asyncio.timeout(60):
            await anext(watch)
            await anext(watch)
        assert (await client.get("a")).prompt == "x"
        assert [one.prediction_id for one in (await client.list(tag="t")).data] == ["b"]
        page = await client.list(limit=1)
        assert page.cursor is not None
        assert len((await client.list(limit=1, cursor=page.cursor)).data) == 1
        changed = await client.patch("a", status="processing", progress=0.25)
        assert (changed.status, changed.progress) == (Status.PROCESSING, 0.25)
        canceled = await client.cancel("b")
        assert canceled.status is Status.CANCELED
        await client.delete("a")
        assert [one.prediction_id for one in (await client.list()).data] == ["b"]


async def test_a_watch_of_attempts_goes_on_with_the_next_one(tmp_path: Path) -> None:
    """Where a prediction is tried again, its watch is that of the new one, and `finished` waits for the last end."""
    async with serving(tmp_path) as service, Client(service.url) as client:
        await report(
            tmp_path,
            ("p1", b'{"type": "create", "retries": 1, "provider": "acme", "model": "m"}'),
            ("p1", b'{"status": "failed"}'),
        )
        ending = asyncio.create_task(client.finished("p1", latest=True, timeout=60))
        record = await client.finished("p1")
        assert record.status is Status.FAILED
        async with client.attempts("p1") as watch:
            names: list[str] = []
            async for update in watch:
                assert isinstance(update, Prediction)
                if not names or names[-1] != update.prediction_id:
                    names.append(update.prediction_id)
                if len(names) == 2:
                    break
        assert names[0] == "p1"
        await report(tmp_path, (names[1], b'{"status": "succeeded"}'))
        end = await ending
        assert (end.prediction_id, end.retry_of, end.status) == (names[1], "p1", Status.SUCCEEDED)
        assert (await client.get("p1", latest=True)).prediction_id == names[1]
        assert (await client.retry("p1")).prediction_id == names[1]
