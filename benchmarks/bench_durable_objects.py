"""The store on Durable Objects beside bare aiohttp making the same requests. `python -m benchmarks.bench_durable_objects`.

A real workerd on loopback, 64 shards, its data on disk. Medians of interleaved rounds; each batch moves 500 predictions
on by one compare-and-set each. The bare client sends bodies made beforehand and decodes the answers.
"""

import os
import statistics
import time
from collections import defaultdict

import aiohttp
import msgspec
import uvloop

from tests.support.workerd import TOKEN, Workerd
from tidings.storage.cloudflare.durable_objects import (
    DurableObjectsStore,
    _operation,
    _Results,
    _Rows,
)
from tidings.storage.prediction import Prediction, Status, Transition, encode
from tidings.storage.store import Write

BATCH = 500
ROUNDS = 12
READS = 400
STATUSES = (Status.STARTING, Status.PROCESSING, Status.SUCCEEDED)


def write(name: str, number: int, version: int) -> Write:
    at = 1_764_000_000_000 + number
    record = Prediction(
        prediction_id=f"{name}-{number:012d}",
        status=STATUSES[(version - 1) % 3],
        version=version,
        created_at=at,
        updated_at=at + version,
        owner=f"owner-{number % 100}",
        model=f"model-{number % 10}",
        payload=msgspec.Raw(b'{"prompt":"%s","seed":17454220438242315174}' % (b"x" * 300)),
        transitions=(Transition(None, Status.STARTING, at, "evt-1", None, f"0:{number}"),) * 2,
    )
    return Write(record, encode(record), version - 1, at + 10**12, at + 10**12)


class Bare:
    """aiohttp alone."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def write(self, body: bytes) -> None:
        async with self._session.post(f"{self._url}/v1/batch", data=body) as answer:
            results = msgspec.json.decode(await answer.read(), type=_Results).results
        assert results == [None] * len(results)

    async def load(self, body: bytes) -> None:
        async with self._session.post(f"{self._url}/v1/load", data=body) as answer:
            assert msgspec.json.decode(await answer.read(), type=_Rows).rows


def body_of(writes: list[Write]) -> bytes:
    return msgspec.json.encode({"ops": [_operation(one) for one in writes], "repeat": False})


async def batches(
    store: DurableObjectsStore, bare: Bare, size: int, rounds: int
) -> dict[str, float]:
    """Transitions per second of each, as medians."""
    seconds = defaultdict(list)
    for name in ("ours", "bare"):
        await store.write([write(f"{name}-{size}", number, 1) for number in range(size)])
    for round_ in range(rounds):
        order = ("ours", "bare") if round_ % 2 else ("bare", "ours")
        for name in order:
            writes = [write(f"{name}-{size}", number, 2 + round_) for number in range(size)]
            body = body_of(writes)
            start = time.perf_counter()
            if name == "ours":
                outcomes = await store.write(writes)
                assert not any(outcomes)
            else:
                await bare.write(body)
            seconds[name].append(time.perf_counter() - start)
    return {name: size / statistics.median(times) for name, times in seconds.items()}


async def reads(store: DurableObjectsStore, bare: Bare) -> dict[str, list[float]]:
    """Microseconds of single reads of each."""
    micros = defaultdict(list)
    for number in range(READS):
        one = f"ours-{BATCH}-{number % BATCH:012d}"
        body = msgspec.json.encode({"ids": [one]})
        for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
            start = time.perf_counter()
            if name == "ours":
                assert await store.get(one) is not None
            else:
                await bare.load(body)
            micros[name].append((time.perf_counter() - start) * 1e6)
    return micros


async def measure(layout: str, size: int, rounds: int, *, read: bool) -> None:
    worker = Workerd(layout=layout)
    worker.start()
    try:
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        async with aiohttp.ClientSession(headers=headers) as session:
            store = await DurableObjectsStore.open(
                f"durable-objects+{worker.url}", worker_token=TOKEN, timeout=120
            )
            bare = Bare(worker.url, session)
            rates = await batches(store, bare, size, rounds)
            print(
                f"| {layout}, batch of {size} | {rates['ours']:,.0f}/s | {rates['bare']:,.0f}/s "
                f"| {rates['ours'] / rates['bare']:.2f} |"
            )
            if read:
                micros = await reads(store, bare)
                ours, theirs = (statistics.median(micros[name]) for name in ("ours", "bare"))
                ours99, theirs99 = (
                    statistics.quantiles(micros[name], n=100)[98] for name in ("ours", "bare")
                )
                print(
                    f"| {layout}, one read, p50 | {ours:,.0f} µs | {theirs:,.0f} µs | {ours / theirs:.2f} |"
                )
                print(
                    f"| {layout}, one read, p99 | {ours99:,.0f} µs | {theirs99:,.0f} µs | {ours99 / theirs99:.2f} |"
                )
            await store.close()
    finally:
        worker.close()


def main() -> None:
    print("| Durable Objects on workerd | this store | bare aiohttp | ratio |\n|---|---|---|---|")
    uvloop.run(measure("sharded", BATCH, ROUNDS, read=True))
    uvloop.run(measure("sharded", 2000, ROUNDS, read=False))
    uvloop.run(measure("one-per-prediction", 100, 4, read=False))
    print(f"\n(load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
