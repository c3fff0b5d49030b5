"""The operator: rebuilds, compares and mends beside the running service, and is told in one line what does not fit."""

import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import get, reaches, signed, watching
from tests.system.operator.replaying_page import commands
from tidings.storage.factory import open_store
from tidings.storage.store import Ownership
from tidings.streams.log.factory import open_log


async def some_predictions(service: TidingsProcess, count: int) -> None:
    """Post webhooks of predictions that start, succeed, or are deleted."""
    async with aiohttp.ClientSession() as session:
        for number in range(count):
            for body in (webhooks.start(f"p{number}"), webhooks.report(f"p{number}")):
                async with session.post(
                    f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
                ) as response:
                    assert response.status == 200
        for number in range(count):
            await reaches(session, service.url, f"p{number}", "succeeded")
        async with session.delete(f"{service.url}/api/predictions/p0") as response:
            assert response.status == 204


def documents(file: Path) -> dict[str, bytes]:
    """Per id the bytes in a SQLite store."""
    connection = sqlite3.connect(file)
    try:
        return dict(connection.execute("SELECT id, doc FROM predictions"))
    finally:
        connection.close()


async def test_a_rebuilt_database_has_the_same_bytes(
    service: TidingsProcess, tmp_path: Path, settings: dict[str, str]
) -> None:
    """`tidings replay --into` beside the running service gives every byte, and refuses a store in use."""
    await some_predictions(service, 12)
    done = await tidings(
        tmp_path, "replay", "--into", "sqlite:///rebuilt.db", "--json", settings=settings
    )
    assert done.code == 0, done.err
    summary = done.json
    assert summary["read"] == 25
    assert documents(tmp_path / "rebuilt.db") == documents(tmp_path / "data" / "store.db")
    again = await tidings(tmp_path, "replay", "--into", "sqlite:///rebuilt.db", settings=settings)
    assert again.code == 1
    assert "holds records already" in again.err
    assert again.line
    resumed = await tidings(
        tmp_path, "replay", "--into", "sqlite:///rebuilt.db", "--resume", settings=settings
    )
    assert resumed.code == 0, resumed.err
    assert documents(tmp_path / "rebuilt.db") == documents(tmp_path / "data" / "store.db")


async def test_a_database_filled_from_the_changes_has_the_same_bytes(
    service: TidingsProcess, tmp_path: Path, settings: dict[str, str]
) -> None:
    """`--from-changes` beside the running service takes whole records and hardly any events, and gives every byte."""
    await some_predictions(service, 12)
    (command,) = commands("From the changes")
    done = await tidings(tmp_path, *command, "--json", settings=settings)
    assert done.code == 0, done.err
    assert (done.json["restored"], done.json["rejected"], done.json["poison"]) == (12, 0, 0)
    assert done.json["changes"] >= 12
    assert documents(tmp_path / "data" / "new.db") == documents(tmp_path / "data" / "store.db")
    switched = {**settings, "TIDINGS_STORE": "sqlite:///data/new.db"}
    verified = await tidings(tmp_path, "replay", "--verify", "--json", settings=switched)
    assert (verified.code, verified.json["faults"]) == (0, 0), verified.out
    again = await tidings(tmp_path, *command, settings=settings)
    assert again.code == 1
    assert "holds records already" in again.line


async def test_a_planted_difference_is_found_and_mended(
    service: TidingsProcess, tmp_path: Path, settings: dict[str, str]
) -> None:
    """`--verify` exits 1 and names it.

    `--repair` mends it by a change with a higher version that a client sees.
    """
    await some_predictions(service, 5)
    clean = await tidings(tmp_path, "replay", "--verify", "--json", settings=settings)
    assert (clean.code, clean.json["faults"]) == (0, 0), clean.out
    store = sqlite3.connect(tmp_path / "data" / "store.db", timeout=10)
    with store:
        store.execute(
            "UPDATE predictions SET doc = replace(doc, 'a jersey', 'a forgery') WHERE id = 'p3'"
        )
    store.close()
    found = await tidings(tmp_path, "replay", "--verify", settings=settings)
    assert found.code == 1
    assert "different: p3" in found.out
    async with (
        watching(service.ws_url, predictions=["p3"], known={"p3": 2}) as watcher,
        aiohttp.ClientSession() as http,
    ):
        mended = await tidings(tmp_path, "replay", "--repair", settings=settings)
        assert mended.code == 0, mended.err
        pushed = await watcher.until("change")
        assert (pushed["prediction"]["version"], pushed["prediction"]["prompt"]) == (3, "a jersey")
        record = await get(http, service.url, "p3")
        assert record == pushed["prediction"]
    after = await tidings(tmp_path, "replay", "--verify", "--json", settings=settings)
    assert (after.code, after.json["faults"]) == (0, 0), after.out


class Replica:
    """A prediction's row in the store as it was: what a replica has that was promoted too early.

    Args:
        folder: Of the service; its store is the one in `data`.
        prediction_id: Whose row; there may be none.
    """

    _COLUMNS = (
        "version",
        "status",
        "owner",
        "model",
        "created_at",
        "expires_at",
        "purge_at",
        "tags",
        "doc",
    )

    def __init__(self, folder: Path, prediction_id: str) -> None:
        self._file = folder / "data" / "store.db"
        self._id = prediction_id
        with closing(sqlite3.connect(self._file)) as store:
            self._row = store.execute(
                f"SELECT {', '.join(self._COLUMNS)} FROM predictions WHERE id = ?",
                (prediction_id,),
            ).fetchone()

    def restore(self) -> None:
        """Lose what was written since."""
        named = ", ".join(f"{column} = ?" for column in self._COLUMNS)
        with closing(sqlite3.connect(self._file, timeout=10)) as store, store:
            if self._row is None:
                store.execute("DELETE FROM predictions WHERE id = ?", (self._id,))
            else:
                store.execute(
                    f"UPDATE predictions SET {named} WHERE id = ?", (*self._row, self._id)
                )


async def test_a_repair_goes_beyond_what_was_announced(
    service: TidingsProcess, tmp_path: Path, settings: dict[str, str]
) -> None:
    """What a store lost after its clients were told is mended at a version that is new to them, and so is what follows."""

    async def post(body: bytes) -> None:
        async with http.post(
            f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
        ) as response:
            assert response.status == 200

    async with (
        aiohttp.ClientSession() as http,
        watching(service.ws_url, all=True, snapshot=False) as watcher,
    ):
        await post(webhooks.start("p1"))
        await watcher.version("p1", "processing")
        replicas = [Replica(tmp_path, "p1"), Replica(tmp_path, "p2")]
        for body in (
            webhooks.logs("p1"),
            webhooks.report("p1"),
            webhooks.start("p2"),
            webhooks.logs("p2"),
        ):
            await post(body)
        announced = {"p1": (await watcher.version("p1", "succeeded"))["version"]}
        await watcher.version("p2", "processing")
        announced["p2"] = (await watcher.version("p2", "processing"))["version"]
        for replica in replicas:
            replica.restore()
        assert documents(tmp_path / "data" / "store.db").keys() == {"p1"}
        found = await tidings(tmp_path, "replay", "--repair", "--json", settings=settings)
        assert (found.code, found.json["different"], found.json["missing"]) == (0, 1, 1), found.err
        mended: dict[str, tuple[int, str]] = {}
        while len(mended) < 2:
            record = (await watcher.until("change"))["prediction"]
            mended[record["predictionId"]] = (record["version"], record["status"])
        assert mended == {
            "p1": (announced["p1"] + 1, "succeeded"),
            "p2": (announced["p2"] + 1, "processing"),
        }
        await post(webhooks.report("p2"))
        assert (await watcher.version("p2", "succeeded"))["version"] == announced["p2"] + 2
        assert (await reaches(http, service.url, "p2", "succeeded"))["version"] == announced[
            "p2"
        ] + 2
    after = await tidings(tmp_path, "replay", "--verify", "--json", settings=settings)
    assert (after.code, after.json["faults"]) == (0, 0), after.out


async def test_a_store_of_another_log_stops_the_start(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """A store that was filled from one log is not written from another.

    One line says what to do.
    """
    async with serving(tmp_path, settings) as service:
        await some_predictions(service, 1)
    other = {**settings, "TIDINGS_LOG": "sqlite:///other.db"}
    refused = TidingsProcess(tmp_path, other)
    await refused.launch()
    assert await refused.ended() == 1
    [line] = [line for line in refused.output.splitlines() if line.startswith("tidings:")]
    assert "belongs to" in line
    assert "tidings replay" in line
    assert "Traceback" not in refused.output


async def test_a_target_of_another_log_is_named(tmp_path: Path) -> None:
    """Where `--into` names a store of another log, the line is about that one, and not about the service's."""
    await (await open_log(f"sqlite:///{tmp_path}/data/log.db")).close()
    foreign = await open_store(f"sqlite:///{tmp_path}/foreign.db")
    await foreign.claim(Ownership(log="another"))
    await foreign.close()
    refused = await tidings(tmp_path, "replay", "--into", "sqlite:///foreign.db")
    assert refused.code == 1
    assert "the store sqlite:///foreign.db belongs to the log another" in refused.line
    assert "name another --into" in refused.line
    assert "store.db" not in refused.line


async def test_an_empty_store_behind_a_log_that_was_processed_stops_a_processor(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """A processor of its own does not begin in the middle.

    One line says to replay, and then it starts.
    """
    async with serving(tmp_path, settings) as service:
        await some_predictions(service, 2)
    lost = {**settings, "TIDINGS_STORE": "sqlite:///new.db"}
    alone = {**lost, "TIDINGS_WEBHOOK_KEY": "a key of thirty-two bytes or more"}
    refused = TidingsProcess(tmp_path, alone, ("serve", "--role", "processor"))
    await refused.launch()
    assert await refused.ended() == 1
    [line] = [line for line in refused.output.splitlines() if line.startswith("tidings:")]
    assert "tidings replay" in line
    filled = await tidings(tmp_path, "replay", settings=lost)
    assert filled.code == 0, filled.err
    async with serving(tmp_path, lost) as service, aiohttp.ClientSession() as session:
        await reaches(session, service.url, "p1", "succeeded")


async def test_a_recreated_log_stops_the_start(tmp_path: Path) -> None:
    """A log that ends below what the store has seen of it is another one.

    The start stops with one line.
    """
    async with serving(tmp_path, {"TIDINGS_REPLICATE_SECRET": webhooks.SECRET}) as service:
        await some_predictions(service, 3)
    for part in ("log.db", "log.db-wal", "log.db-shm"):
        (tmp_path / "data" / part).unlink(missing_ok=True)
    refused = TidingsProcess(tmp_path)
    await refused.launch()
    assert await refused.ended() == 1
    assert len([line for line in refused.output.splitlines() if line.startswith("tidings:")]) == 1


async def test_two_processors_of_one_embedded_log_are_refused(tmp_path: Path) -> None:
    """The processor's role on a SQLite log is guarded.

    The second process says so and ends, the first goes on.
    """
    async with serving(tmp_path) as first:
        second = TidingsProcess(tmp_path)
        await second.launch()
        assert await second.ended() in {1, 2}
        assert "Traceback" not in second.output
        assert "tidings:" in second.output
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                async with session.get(f"{first.url}/readyz") as response:
                    return response.status == 200

            await eventually(ready)


async def test_a_record_that_is_none_is_named_in_one_line(
    service: TidingsProcess, tmp_path: Path, settings: dict[str, str]
) -> None:
    """`--verify` counts it as different; `--repair` leaves it, and brings it back once the row is gone."""
    await some_predictions(service, 3)
    file = tmp_path / "data" / "store.db"
    before = documents(file)
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("UPDATE predictions SET doc = 'no record' WHERE id = 'p1'")
    found = await tidings(tmp_path, "replay", "--verify", settings=settings)
    assert (found.code, found.err.count("Traceback")) == (1, 0), found.err
    assert "different: p1 (store: version 2, which is no record; log: version 2)" in found.out
    left = await tidings(tmp_path, "replay", "--repair", settings=settings)
    assert (left.code, "p1: is no record; remove its row" in left.out) == (3, True), left.out
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("DELETE FROM predictions WHERE id = 'p1'")
    done = await tidings(tmp_path, "replay", "--repair", settings=settings)
    assert done.code == 0, done.out + done.err

    async def back() -> bool:
        return "p1" in documents(file)

    await eventually(back, 20)
    after = await tidings(tmp_path, "replay", "--verify", settings=settings)
    assert after.code == 0, after.out
    assert documents(file).keys() == before.keys()
