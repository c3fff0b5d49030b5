"""`tidings doctor` about stores of every kind.

What it finds, and one clear line for each failure.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import webhooks, workerd
from tests.support.broker import free_port
from tests.support.cloudflare_emulator import ACCOUNT, TOKEN, CloudflareEmulator
from tests.support.command import tidings
from tests.support.servers import PASSWORD, Postgres, Valkey
from tests.support.tidings_process import serving
from tests.support.workerd import Workerd

Settings = dict[str, str]


@pytest.fixture(scope="module")
def cloudflare() -> Iterator[CloudflareEmulator]:
    """A Cloudflare with the namespace `n`."""
    emulator = CloudflareEmulator()
    emulator.namespace("n")
    emulator.start()
    yield emulator
    emulator.close()


@pytest.fixture(scope="module")
def worker(cloudflare: CloudflareEmulator) -> Iterator[Workerd]:
    """A Worker with a KV namespace."""
    workerd.needed()
    worker = Workerd(shards=1, kv_port=cloudflare.binding_port)
    worker.start()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    server = Valkey()
    server.start()
    yield server
    server.close()


def of_rest(cloudflare: CloudflareEmulator) -> Settings:
    return {
        "TIDINGS_STORE": f"cloudflare-kv://{ACCOUNT}/n",
        "TIDINGS_CLOUDFLARE_TOKEN": TOKEN,
        "TIDINGS_CLOUDFLARE_URL": cloudflare.url,
    }


async def store_line(folder: Path, settings: Settings, part: str = "store") -> tuple[str, str]:
    """What the doctor says of a part: its state, and the line."""
    ended = await tidings(folder, "doctor", "--json", settings=settings)
    found = {one["part"]: one for one in ended.json["parts"]}[part]
    assert "\n" not in found["says"]
    assert PASSWORD not in ended.out
    assert ended.code == (1 if any(one["state"] == "failed" for one in ended.json["parts"]) else 0)
    return found["state"], found["says"]


async def used(folder: Path, settings: Settings) -> None:
    """Let a service write into the store."""
    import aiohttp

    settings = {**settings, "TIDINGS_REPLICATE_SECRET": webhooks.SECRET}
    async with serving(folder, settings) as service, aiohttp.ClientSession() as session:
        body = webhooks.report("p1")
        headers = webhooks.signed(body)
        async with session.post(
            f"{service.url}/api/webhooks/replicate", data=body, headers=headers
        ) as answer:
            assert answer.status == 200
        await webhooks.reaches(session, service.url, "p1", "succeeded")


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("sqlite", ("SQLite 3", "every commit is on the disk", "format 2")),
        (
            "postgres",
            ("PostgreSQL 18", "fsync on", "clock skew (ms)", "round trip (ms)", "format 2"),
        ),
        (
            "valkey",
            (
                "Valkey 9",
                "append-only file on",
                "maxmemory-policy noeviction",
                "clock skew (ms)",
                "round trip",
            ),
        ),
        ("objects", ("protocol 1", "1 shards", "round trip")),
        ("kv", ("REST API", "up to 60 s", "clock skew (ms)", "round trip")),
        ("kv-worker", ("the Worker at", "up to 60 s", "round trip")),
    ],
)
async def test_it_says_what_a_store_is_and_whose(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, facts: tuple[str, ...]
) -> None:
    """Before the first use nothing is written.

    Then it names the log; with another log it fails, and says what to do.
    """

    def of(name: str) -> str:
        return str(request.getfixturevalue(name).url)

    settings: Callable[[], Settings] = {
        "sqlite": lambda: {"TIDINGS_STORE": "sqlite:///store.db"},
        "postgres": lambda: {"TIDINGS_STORE": of("postgres")},
        "valkey": lambda: {"TIDINGS_STORE": of("valkey")},
        "objects": lambda: {
            "TIDINGS_STORE": f"durable-objects+{of('worker')}/doctor",
            "TIDINGS_WORKER_TOKEN": workerd.TOKEN,
        },
        "kv": lambda: of_rest(request.getfixturevalue("cloudflare")),
        "kv-worker": lambda: {
            "TIDINGS_STORE": f"cloudflare-kv+worker+{of('worker')}/doctor",
            "TIDINGS_WORKER_TOKEN": workerd.TOKEN,
        },
    }[kind]
    chosen = settings()
    state, says = await store_line(tmp_path, chosen)
    assert state == "ok"
    assert "none yet" in says or "will be made" in says
    await used(tmp_path, chosen)
    state, says = await store_line(tmp_path, chosen)
    assert state == "ok", says
    assert "the one of these settings" in says
    for fact in facts:
        assert fact in says
    (tmp_path / "data" / "log.db").rename(tmp_path / "data" / "another.db")
    await used(tmp_path, {"TIDINGS_STORE": "sqlite:///data/other.db"})
    state, says = await store_line(tmp_path, chosen)
    assert state == "failed"
    assert "belongs to the log sqlite:" in says
    assert "TIDINGS_STORE" in says


async def test_each_failure_is_one_line_with_the_remedy(
    tmp_path: Path,
    postgres: Postgres,
    valkey: Valkey,
    worker: Workerd,
    cloudflare: CloudflareEmulator,
) -> None:
    """A wrong password, token, address, namespace, database, policy and a server that is gone."""
    nobody = free_port()
    evicting = Valkey("--maxmemory-policy", "allkeys-lru")
    evicting.start()
    objects = f"durable-objects+{worker.url}"
    rest = of_rest(cloudflare)
    wrong_password = postgres.url.replace(PASSWORD[:3], "wrong")
    cases: list[tuple[Settings, str]] = [
        ({"TIDINGS_STORE": wrong_password}, "password"),
        ({"TIDINGS_STORE": postgres.url.replace("/postgres", "/nothing")}, "nothing"),
        ({"TIDINGS_STORE": f"postgresql://a:b@127.0.0.1:{nobody}/x"}, "127.0.0.1"),
        ({"TIDINGS_STORE": f"{postgres.url}?schema=s&colour=red"}, "colour"),
        ({"TIDINGS_STORE": f"valkey://127.0.0.1:{nobody}"}, "127.0.0.1"),
        (
            {"TIDINGS_STORE": valkey.url.replace("valkey://", "valkey://someone:secret@")},
            "password",
        ),
        ({"TIDINGS_STORE": evicting.url}, "set maxmemory-policy noeviction"),
        ({"TIDINGS_STORE": objects, "TIDINGS_WORKER_TOKEN": "wrong"}, "TIDINGS_WORKER_TOKEN"),
        ({"TIDINGS_STORE": objects}, "TIDINGS_WORKER_TOKEN"),
        (
            {
                "TIDINGS_STORE": f"durable-objects+http://127.0.0.1:{nobody}",
                "TIDINGS_WORKER_TOKEN": "t",
            },
            "reached",
        ),
        ({**rest, "TIDINGS_CLOUDFLARE_TOKEN": "wrong"}, "Workers KV Storage: Edit"),
        ({**rest, "TIDINGS_STORE": f"cloudflare-kv://{ACCOUNT}/nowhere"}, "'nowhere' a namespace"),
        ({**rest, "TIDINGS_CLOUDFLARE_URL": f"http://127.0.0.1:{nobody}"}, "reached"),
    ]
    try:
        for settings, remedy in cases:
            state, says = await store_line(tmp_path, settings)
            assert (state, remedy in says) == ("failed", True), (settings["TIDINGS_STORE"], says)
    finally:
        evicting.close()


async def test_it_tries_the_fallback_and_the_arm_as_well(tmp_path: Path, valkey: Valkey) -> None:
    """Each store of the settings has a line of its own."""
    settings = {
        "TIDINGS_STORE": "sqlite:///store.db",
        "TIDINGS_STORE_FALLBACK": f"{valkey.url}?prefix=fallback&durability=everysec",
        "TIDINGS_STORE_SPLIT": f"valkey://127.0.0.1:{free_port()}=10",
    }
    state, says = await store_line(tmp_path, settings, "fallback")
    assert (state, "durability on" in says) == ("warning", True), says
    state, says = await store_line(tmp_path, settings, "split")
    assert state == "failed"


@pytest.mark.kafka
async def test_a_broker_without_topics_is_a_warning(
    tmp_path: Path, kafka_address: str, topic_prefix: str
) -> None:
    """Before the first start the topics are not there yet: that is no failure, and no other part is blamed."""
    settings = {"TIDINGS_LOG": f"kafka://{kafka_address}", "TIDINGS_TOPIC_PREFIX": topic_prefix}
    ended = await tidings(tmp_path, "doctor", "--json", settings=settings)
    found = {one["part"]: one for one in ended.json["parts"]}
    assert ended.code == 0, ended.out
    assert found["log"]["state"] == "warning"
    assert "start the service first, which creates it" in found["log"]["says"]
    assert found["store"]["state"] == "ok"
