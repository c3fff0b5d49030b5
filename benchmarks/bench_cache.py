"""The cache beside a plain dict: time of a put and of a read, memory of an entry. `python -m benchmarks.bench_cache`."""

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable

from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Status
from tidings.storage.store import Stored
from tidings.storage.wrappers.cache import CachedStore

RECORDS = 100_000
ROUNDS = 5
ENCODED = 700


def states(version: int) -> list[tuple[str, Stored]]:
    return [
        (
            f"prediction-{number:012d}",
            Stored(
                version, Status.PROCESSING, b"%0*d" % (ENCODED, number), 2_000_000_000_000, "owner"
            ),
        )
        for number in range(RECORDS)
    ]


def cache() -> CachedStore:
    return CachedStore(MemoryStore(), records=2 * RECORDS, bytes_=1 << 40)


def timed(work: Callable[[], object]) -> float:
    """µs a record."""
    gc.collect()
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / RECORDS * 1e6


def put_dict(items: list[tuple[str, Stored]], into: dict[str, Stored]) -> None:
    for key, value in items:
        into[key] = value  # noqa: PERF403 - the time of one set


def put_cache(items: list[tuple[str, Stored]], into: CachedStore) -> None:
    put = into.put
    for key, value in items:
        put(key, value)


def read(items: list[tuple[str, Stored]], look: Callable[[str], object]) -> None:
    for key, _ in items:
        look(key)


def get(items: list[tuple[str, Stored]], store: CachedStore) -> None:
    async def all_of_them() -> None:
        for key, _ in items:
            await store.get(key)

    asyncio.run(all_of_them())


def load(items: list[tuple[str, Stored]], store: CachedStore) -> None:
    keys = [key for key, _ in items]

    async def in_batches() -> None:
        for start in range(0, RECORDS, 500):
            await store.load(keys[start : start + 500])

    asyncio.run(in_batches())


def small(items: list[tuple[str, Stored]]) -> None:
    """Every put of a new record evicts."""
    put_cache(items, CachedStore(MemoryStore(), records=RECORDS // 10))


def memory(fill: Callable[[list[tuple[str, Stored]]], object]) -> float:
    """Bytes an entry, its record and key included."""
    gc.collect()
    tracemalloc.start()
    kept = fill(states(1))
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return size / RECORDS


def filled_dict(items: list[tuple[str, Stored]]) -> dict[str, Stored]:
    return dict(items)


def filled_cache(items: list[tuple[str, Stored]]) -> CachedStore:
    store = cache()
    put_cache(items, store)
    return store


def main() -> None:
    figures: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        figures.setdefault(name, []).append(timed(work))

    for _ in range(ROUNDS):
        first, second = states(1), states(2)
        plain: dict[str, Stored] = {}
        store = cache()
        note("dict: set", lambda: put_dict(first, plain))  # noqa: B023 - called at once
        note("cache: put, new", lambda: put_cache(first, store))  # noqa: B023
        note("cache: put, next version", lambda: put_cache(second, store))  # noqa: B023
        note("cache: put, evicting", lambda: small(first))  # noqa: B023
        note("dict: get", lambda: read(first, plain.get))  # noqa: B023
        store.steady = True
        note("cache: peek, changes followed", lambda: read(first, store.peek))  # noqa: B023
        store.steady = False
        note("cache: peek, ageing", lambda: read(first, store.peek))  # noqa: B023
        note("cache: await get", lambda: get(first, store))  # noqa: B023
        note("cache: load of 500, a record", lambda: load(first, store))  # noqa: B023
    median = {name: statistics.median(values) for name, values in figures.items()}
    print(
        f"{f'cache, {RECORDS:,} records of {ENCODED} bytes':<44}{'figure':>12}{'ratio to dict':>16}"
    )
    for name, value in median.items():
        reference = median["dict: set" if "put" in name or "set" in name else "dict: get"]
        print(f"{name:<44}{value:>9.2f} µs{value / reference:>16.1f}")
    plain_memory, cache_memory = memory(filled_dict), memory(filled_cache)
    print(f"{'dict: memory of an entry':<44}{plain_memory:>10.0f} B{1:>16.2f}")
    print(
        f"{'cache: memory of an entry':<44}{cache_memory:>10.0f} B{cache_memory / plain_memory:>16.2f}"
    )


if __name__ == "__main__":
    main()
