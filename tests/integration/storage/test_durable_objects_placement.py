"""Where Durable Objects are asked to be, on the real workerd, which takes the hint and has one location."""

from collections.abc import Iterator

import pytest

from tests.support import workerd
from tests.support.storage.samples import creation, fresh
from tests.support.workerd import TOKEN, Workerd
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.factory import open_store


@pytest.fixture
def worker() -> Iterator[Workerd]:
    """A workerd of the test's own, not started: its Worker is another one."""
    workerd.needed()
    worker = Workerd(shards=2)
    yield worker
    worker.close()


async def test_a_location_is_taken() -> None:
    """A store with a location works as any other, is the same store as without, and says where it is."""
    url, token = workerd.shared()
    place, one = f"durable-objects+{url}/{fresh('space')}", fresh()
    store = await open_store(f"{place}?location=weur", worker_token=token)
    assert await store.write([creation(one)]) == [None]
    assert (await store.facts())["location"] == "weur"
    await store.close()
    other = await open_store(place, worker_token=token)
    assert await other.get(one) is not None
    await other.close()


async def test_the_hint_reaches_cloudflare(worker: Workerd) -> None:
    """The Worker hands the location to the runtime's own call for an object."""
    worker.edits.append(
        (
            "placement.js",
            "return location ?",
            "within.get = (id, hint) => { throw new Error(`asked for ${hint.locationHint}`); };\n  return location ?",
        )
    )
    worker.edits.append(
        (
            "placement.js",
            "= jurisdiction ?",
            "= location ? { idFromName: (one) => one } : jurisdiction ?",
        )
    )
    worker.start()
    with pytest.raises(StoreUnavailable, match="asked for apac"):
        await open_store(f"durable-objects+{worker.url}?location=apac", worker_token=TOKEN)


async def test_a_jurisdiction_is_asked_for() -> None:
    """The runtime is asked for a jurisdiction's objects; workerd, which has none, says so."""
    url, token = workerd.shared()
    with pytest.raises(StoreUnavailable, match="Jurisdiction restrictions are not implemented"):
        await open_store(f"durable-objects+{url}?jurisdiction=eu", worker_token=token)


async def test_a_worker_that_does_not_heed_them(worker: Workerd) -> None:
    """An older Worker, which would put the objects anywhere, is refused; without a wish it serves."""
    worker.edits.append(("index.js", "...layout.placement, ", ""))
    worker.start()
    with pytest.raises(StoreMisconfigured, match="wrangler deploy"):
        await open_store(f"durable-objects+{worker.url}?location=weur", worker_token=TOKEN)
    await (await open_store(f"durable-objects+{worker.url}", worker_token=TOKEN)).close()


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("location=mars", "use one of wnam"),
        ("jurisdiction=de", "use one of eu, fedramp"),
        ("region=eu", "takes location and jurisdiction"),
        ("location=weur&location=oc", "once each"),
        ("location", "is no query"),
    ],
)
async def test_wrong_queries(query: str, line: str) -> None:
    """What Cloudflare does not know is refused in one line, before anything is called."""
    with pytest.raises(StoreMisconfigured, match=line):
        await open_store(f"durable-objects://h.example?{query}", worker_token=TOKEN)
