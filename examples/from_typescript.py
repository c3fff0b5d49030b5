"""The original design's calls in TypeScript, each beside ours: `python from_typescript.py predictions.db`.

The library keeps the state in a store, as the original does. What went through it by hand there, the
service does by itself: webhooks, retries, pushes to browsers.
"""

import asyncio
import sys

import tidings


async def main(file: str) -> None:
    """Each step as it was, and as it is."""
    # const storage = createStorageProvider(env);
    store = await tidings.open_store(
        f"sqlite:///{file}"
    )  # or postgresql://, redis://, cloudflare-kv://
    # const manager = new PredictionStatusManager(storage);
    manager = tidings.PredictionStatusManager(store)

    # await manager.initialize(id, { payload, prompt, model, estimatedTime });
    await manager.initialize(
        "p1", payload={"seed": 7}, prompt="a red kite", model="acme/draw", estimated_time=4000
    )
    # await manager.markAsProcessing(id);
    await manager.mark_as_processing("p1")
    # const { success, data } = await manager.get(id);
    record = await manager.get("p1")  # None if the original says success: false
    print(record.status if record else "gone")

    # await manager.markAsSucceeded(id, imageUrl, imagePath, generationTime);
    await manager.mark_as_succeeded("p1", "https://example.com/kite.png", None, 3800)
    # const again = await manager.markAsFailed(id, "late");  again.success === false
    again = await tidings.as_result(manager.mark_as_failed("p1", "late"))  # or catch what it raises
    print(again["success"], again["errorCode"])  # what is over stays over

    # await manager.update(id, { status: "processing", progress: 0.5 });
    await manager.initialize("p2")
    await manager.update("p2", status="processing", progress=0.5)
    # await manager.markAsCanceled(id);
    await manager.mark_as_canceled("p2")
    # await manager.delete(id);
    await manager.delete("p2")

    # setInterval(() => fetch(`/api/predictions/${id}`).then(show), 2000);
    #   in a page: tidings.watch(id, show)   with Tidings from @tidings/client, pushed and not polled
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
