"""The archiver beside a bare httpx-to-disk loop: 1,000 files of 1 MB from a local server.

`python -m benchmarks.bench_archiver`. Server, loop and archiver run in processes of their own; the archiver's files are
flushed to the disk before it says anything of them, the loop's are not.
"""

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = 1_000
SIZE = 1_000_000
PROCESS = (sys.executable, "-m", "benchmarks.bench_archiver")


def bare(place: str, folder: Path) -> int:
    """What anybody would write; returns the bytes."""
    import httpx

    total = 0
    with httpx.Client(trust_env=False) as http:
        for number in range(FILES):
            with (
                http.stream("GET", f"http://{place}/{number}") as response,
                (folder / str(number)).open("wb") as file,
            ):
                for chunk in response.iter_bytes():
                    total += file.write(chunk)
    return total


async def archive(place: str, folder: Path) -> int:
    """One finished prediction per file; returns the bytes."""
    from msgspec import Raw

    from tidings.storage.memory import MemoryStore
    from tidings.storage.object_storage import ObjectStorage
    from tidings.storage.prediction import Prediction, Status, encode
    from tidings.storage.store import Write
    from tidings.streams.archive.downloader import Downloads
    from tidings.streams.archive.paths import AssetPaths
    from tidings.streams.archive.transfer import FileTransfer
    from tidings.streams.archive.worker import GROUP, Archiver
    from tidings.streams.changes.codec import announcement
    from tidings.streams.log.memory import MemoryLog
    from tidings.streams.log.protocol import CHANGES, Position
    from tidings.streams.submission.event_publisher import EventPublisher

    log, store, objects = MemoryLog(), MemoryStore(), ObjectStorage(f"file:///{folder}")
    records = [
        Prediction(
            prediction_id=f"p{number}",
            status=Status.SUCCEEDED,
            version=1,
            created_at=1,
            updated_at=int(time.time() * 1000),
            output=Raw(f'"http://{place}/{number}"'.encode()),
        )
        for number in range(FILES)
    ]
    await store.write([Write(record, encode(record), 0) for record in records])
    await log.append(
        CHANGES, [announcement(r, encode(r), position=Position(0, 0)) for r in records]
    )
    downloads = Downloads([place])
    work = FileTransfer(store.load, objects, AssetPaths(b"key"), downloads, EventPublisher(log))
    archiver = Archiver(log, work)
    task = asyncio.create_task(archiver.run())
    while archiver.done < FILES:
        await asyncio.sleep(0.005)
        if task.done():
            task.result()
    archiver.stop()
    await task
    await downloads.close()
    assert (await log.committed(CHANGES, GROUP))[0] == FILES
    return work.bytes


async def serve() -> None:
    """The server: a body of random bytes that looks like a picture."""
    from aiohttp import web

    body = b"\x89PNG\r\n\x1a\n" + os.urandom(SIZE - 8)

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="image/png")

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def measured(what: str, place: str) -> tuple[float, float]:
    """Seconds and MB of a run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*PROCESS, what, place, folder]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = answer.stdout.split()[-2:]
    return float(seconds), float(memory)


def run(what: str, place: str, folder: Path) -> None:
    """In the child."""
    import uvloop

    start = time.perf_counter()
    total = bare(place, folder) if what == "bare" else uvloop.run(archive(place, folder))
    seconds = time.perf_counter() - start
    assert total == FILES * SIZE, total
    print(f"{seconds:.3f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}")


def main() -> None:
    server = subprocess.Popen([*PROCESS, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        place = f"127.0.0.1:{server.stdout.readline().strip()}"
        measured("bare", place)  # warms the server up
        rounds = [(measured("bare", place), measured("archive", place)) for _ in range(3)]
    finally:
        server.kill()
        server.wait()
    (loop, loop_memory) = min(one for one, _ in rounds)
    (ours, memory) = min(other for _, other in rounds)
    print(f"{FILES} files of {SIZE / 1e6:g} MB from a server on loopback (best of 3)")
    print("| | s | MB/s | ratio | most memory, MB |\n|---|---|---|---|---|")
    print(f"| bare httpx-to-disk loop | {loop:.2f} | {FILES / loop:.0f} | 1 | {loop_memory:.0f} |")
    print(
        f"| archiver, flushed to disk | {ours:.2f} | {FILES / ours:.0f} | {loop / ours:.2f} | {memory:.0f} |"
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    elif len(sys.argv) > 1:
        run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        main()
