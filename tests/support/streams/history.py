"""Events of every kind, and what a replay makes of them, for tests."""

from tests.support.streams.pipeline import Pipeline
from tidings.storage.memory import MemoryStore
from tidings.storage.store import PredictionStore
from tidings.streams.log.protocol import Log
from tidings.streams.processing.processor import GROUP
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.replay.verify import Verification, verify
from tidings.streams.rules.reducer import StorePolicy


async def some_history(running: Pipeline) -> None:
    """Finished, failed, deleted, re-created, contradicted and poisonous things."""
    for number in range(30):
        key = f"p{number}"
        await running.send(
            {"status": "starting", "type": "create", "id": f"c{number}", "owner": "o"}, key=key
        )
        await running.send(
            {"status": "processing", "logs": "x" * number},
            {"status": "succeeded", "output": [number]},
            key=key,
        )
        if number % 3 == 0:
            await running.send({"status": "failed"}, b"nonsense", key=key)
        if number % 5 == 0:
            await running.send({"type": "delete"}, {"status": "succeeded"}, key=key)
        if number % 10 == 0:
            await running.send({"type": "create", "id": f"again{number}"}, key=key)
    await running.settled()


async def everything(store: PredictionStore) -> dict[str, bytes]:
    """Per id the bytes in a store, deletions included."""
    return {
        i: stored.encoded for i, stored in (await store.load([f"p{n}" for n in range(40)])).items()
    }


async def rebuilt(log: Log, store: PredictionStore, **how: object) -> Rebuild:
    """Rebuild a store from the whole log."""
    rebuild = Rebuild(log, store, {}, StorePolicy(await log.identity()), **how)  # type: ignore[arg-type]
    await rebuild.require_empty()
    await rebuild.run(await span(log))
    return rebuild


async def compared(log: Log, live: PredictionStore, only: str | None = None) -> Verification:
    """Verify a live store."""
    scratch = MemoryStore()
    rebuild = await rebuilt(log, scratch, only=only)
    return await verify(rebuild, scratch, live, log, group=GROUP, only=only)
