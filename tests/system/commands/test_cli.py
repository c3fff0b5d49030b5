"""The command line, as real processes.

What it prints, how it ends, and the one line it fails with.
"""

import asyncio
import json
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

import jwt
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tidings.client.client import Client
from tidings.storage.prediction import Prediction, decode, encode
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Write
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

COMMANDS = (
    "serve",
    "demo",
    "replay",
    "watch",
    "answer",
    "backup",
    "restore",
    "erase",
    "export",
    "doctor",
    "token",
    "openapi",
    "asyncapi",
)
LETTERS = ("list", "show", "redrive", "export")
SECRET = "a-secret-of-more-than-thirty-two-bytes"


async def append(folder: Path, *values: Mapping[str, object] | bytes) -> None:
    """Put events into the embedded log of a working folder."""
    (folder / "data").mkdir(exist_ok=True)
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    try:
        for value in values:
            body = value if isinstance(value, bytes) else msgspec.json.encode(value)
            key = str(value["predictionId"]).encode() if isinstance(value, Mapping) else b"p"
            await log.append(EVENTS, [NewRecord(key, body)])
    finally:
        await log.close()


async def finished_events(folder: Path, count: int = 20) -> None:
    await append(
        folder,
        *(
            {"predictionId": f"p{number}", "status": status, "prompt": "a cat"}
            for status in ("processing", "succeeded")
            for number in range(count)
        ),
    )


async def tamper(folder: Path, prediction_id: str, **changes: object) -> None:
    """Write something into the store of a working folder that no event says."""
    store = await SqliteStore.open(f"sqlite:///{folder}/data/store.db")
    try:
        standing = (await store.load([prediction_id]))[prediction_id]
        record = decode(standing.encoded)
        wrong = msgspec.structs.replace(record, version=record.version + 1, **changes)
        outcome = await store.write([Write(wrong, encode(wrong), record.version)])
        assert outcome == [None]
    finally:
        await store.close()


async def test_every_command_has_help_with_an_example(tmp_path: Path) -> None:
    """`--help` of each command ends with 0 and shows how it is used."""
    everything = await tidings(tmp_path, "--help")
    assert everything.code == 0
    asked = (
        [(name,) for name in COMMANDS]
        + [("dead-letters", name) for name in LETTERS]
        + [("audit",), ("audit", "export"), ("dead-letters",), ("reconcile",), ()]
    )
    ended = await asyncio.gather(*(tidings(tmp_path, *words, "--help") for words in asked))
    for words, one in zip(asked, ended, strict=True):
        assert " ".join(words[:1]) in everything.out
        assert one.code == 0
        assert f"example:\n  {' '.join(('tidings', *words))}" in one.out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("serv",),
        ("serve", "--prot", "1"),
        ("serve", "--port", "x"),
        ("serve", "--role", "gateway"),
        ("serve", "--host", "0.0.0.0"),
        ("serve", "--log", "rabbit://x"),
        ("serve", "--store", "sqlite:///data/log.db"),
        ("serve", "--config", "missing.toml"),
        ("serve", "--workers", "2"),
        ("demo", "--every", "-1"),
        ("replay", "--from", "yesterday"),
        ("replay", "--until", "never"),
        ("replay", "--into", "x"),
        ("replay", "--verify", "--repair"),
        ("replay", "--verify", "--follow"),
        ("replay", "--dry-run", "--resume"),
        ("replay", "--from-changes", "--verify"),
        ("replay", "--from-changes", "--repair"),
        ("replay", "--from-changes", "--resume"),
        ("replay", "--from-changes", "--from", "0:1"),
        ("replay", "--from-changes", "--until", "2026-01-31T12:00Z"),
        ("dead-letters",),
        ("dead-letters", "redrive"),
        ("dead-letters", "show", "nine"),
        ("dead-letters", "redrive", "--all", "--rate", "0"),
        ("backup",),
        ("restore",),
        ("audit", "export", "--from", "yesterday"),
        ("audit", "export", "--from", "2000", "--until", "1000"),
        ("audit", "export", "--owner", ""),
        ("audit", "export", "--only", ""),
        ("erase",),
        ("erase", "--owner", ""),
        ("erase", "--owner", "a", "--within", "0"),
        ("watch",),
        ("watch", "p1", "--all"),
        ("watch", "--all", "--finished"),
        ("watch", "p1", "--url", "ftp://x"),
        ("answer",),
        ("answer", "p1", "{", "--parse"),
        ("answer", "p1", "--parse"),
        ("token",),
    ],
    ids=" ".join,
)
async def test_wrong_use_is_one_line_and_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Wrong use ends with 2 and one line that says what was wrong."""
    ended = await tidings(tmp_path, *arguments)
    assert ended.code == 2
    assert ended.line
    assert ended.out == ""


async def test_a_wrong_setting_stops_every_command(tmp_path: Path) -> None:
    """A setting that does not exist, or cannot be used, is named by whichever command meets it."""
    for words in (("serve",), ("doctor",), ("replay",), ("token",), ("dead-letters", "list")):
        ended = await tidings(tmp_path, *words, settings={"TIDINGS_PROT": "1"})
        assert ended.code == 2
        assert "TIDINGS_PROT: is not a setting; did you mean TIDINGS_PORT?" in ended.line
    (tmp_path / "tidings.toml").write_text('store = "postgrs://x"\n')
    assert "tidings.toml: store" in (await tidings(tmp_path, "serve")).line


async def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """A start on a port that somebody else has ends with 1 and names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await tidings(tmp_path, "serve", "--port", str(port))
    assert ended.code == 1
    assert "in use" in ended.line


async def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    """A service that nobody runs, or a log that cannot be opened, ends with 1 within its time."""
    watching = await tidings(tmp_path, "watch", "p1", "--url", "http://127.0.0.1:9", within=30)
    assert (watching.code, "http://127.0.0.1:9 cannot be reached" in watching.line) == (1, True)
    nobody = await tidings(
        tmp_path, "replay", settings={"TIDINGS_LOG": "kafka://127.0.0.1:1"}, within=30
    )
    assert (nobody.code, "Kafka at 127.0.0.1:1 does not answer" in nobody.line) == (1, True)
    (tmp_path / "file").write_text("")
    ended = await tidings(tmp_path, "serve", "--port", "0", "--log", "sqlite:///file/log.db")
    assert ended.code in {1, 2}
    assert "file" in ended.line


async def test_token(tmp_path: Path) -> None:
    """`token` prints a JWT with the claims asked for, and the audience and issuer of the settings."""
    settings = {
        "TIDINGS_JWT_SECRET": SECRET,
        "TIDINGS_JWT_AUDIENCE": "aud",
        "TIDINGS_JWT_ISSUER": "iss",
    }
    words = (
        "token",
        "--sub",
        "alice",
        "--scope",
        "write admin",
        "--predictions",
        "p1,p2",
        "--ttl",
        "60",
    )
    ended = await tidings(tmp_path, *words, settings=settings)
    assert ended.code == 0
    claims = jwt.decode(
        ended.out.strip(), SECRET, algorithms=["HS256"], audience="aud", issuer="iss"
    )
    assert claims["exp"] - claims["iat"] == 60
    assert (claims["sub"], claims["scope"], claims["predictions"]) == (
        "alice",
        "write admin",
        ["p1", "p2"],
    )
    named = {
        "TIDINGS_JWT_SECRET": SECRET,
        "TIDINGS_JWT_AUDIENCE": "app",
        "TIDINGS_AUDIENCE_CLAIM": "azp",
        "TIDINGS_OWNER_CLAIM": "user.id",
        "TIDINGS_SCOPE_CLAIMS": "https://app.example/scopes",
    }
    asked = ("--sub", "alice", "--scope", "write")
    ended = await tidings(tmp_path, "token", *asked, settings=named)
    claims = jwt.decode(ended.out.strip(), SECRET, algorithms=["HS256"])
    assert (claims["user"], claims["azp"]) == ({"id": "alice"}, "app")
    assert claims["https://app.example/scopes"] == "write"
    ended = await tidings(
        tmp_path, "doctor", "--json", "--token", ended.out.strip(), settings=named
    )
    says = {one["part"]: one["says"] for one in ended.json["parts"]}
    assert says["token owner"].startswith('"alice" (`user.id`)')
    assert says["token scopes"].startswith("gives write")
    wrong = await tidings(tmp_path, "token", "--scope", "root", settings=settings)
    assert (wrong.code, "'root' is none of" in wrong.line) == (2, True)


async def test_doctor(tmp_path: Path) -> None:
    """`doctor` prints what is in force with secrets masked, tries each part, and ends with 1 where one fails."""
    settings = {
        "TIDINGS_API_KEYS": "hidden",
        "TIDINGS_STORE": "sqlite:///file/store.db",
        "TIDINGS_PORT": "81",
    }
    (tmp_path / "file").write_text("")
    ended = await tidings(tmp_path, "doctor", "--json", settings=settings)
    assert ended.code == 1
    assert "hidden" not in ended.out
    assert ended.json["settings"]["TIDINGS_PORT"] == {"value": 81, "from": "TIDINGS_PORT"}
    parts = {part["part"]: part for part in ended.json["parts"]}
    assert parts["store"]["state"] == "failed"
    assert parts["access"]["state"] == "warning"
    assert "openssl" in parts["access"]["says"]
    assert parts["log"]["state"] == "ok"
    await finished_events(tmp_path)
    plain = await tidings(tmp_path, "doctor")
    assert plain.code == 0
    assert "40 records kept" in plain.out
    assert "TIDINGS_STORE" in plain.out


async def test_replay_rebuilds_into_an_empty_store_alone(tmp_path: Path) -> None:
    """A rebuild fills an empty store, is refused by one in use, and is gone on with by `--resume`."""
    await finished_events(tmp_path)
    dry = await tidings(tmp_path, "replay", "--dry-run", "--json")
    assert (dry.code, dry.json["predictions"], dry.json["read"]) == (0, 20, 40)
    assert not (tmp_path / "data" / "store.db").exists()
    first = await tidings(tmp_path, "replay")
    assert first.code == 0
    assert "predictions      20" in first.out
    again = await tidings(tmp_path, "replay")
    assert (again.code, "--into URL" in again.line) == (1, True)
    resumed = await tidings(tmp_path, "replay", "--resume", "--json")
    assert (resumed.code, resumed.json["applied"], resumed.json["resumed"]) == (0, 0, True)
    part = await tidings(
        tmp_path,
        "replay",
        "--from",
        "0:30",
        "--only",
        "p19",
        "--into",
        "sqlite:///two.db",
        "--json",
    )
    assert (part.code, part.json["predictions"], part.json["read"]) == (0, 1, 10)
    beyond = await tidings(tmp_path, "replay", "--from", "7:1", "--into", "sqlite:///three.db")
    assert (beyond.code, "no partition 7" in beyond.line) == (2, True)
    late = await tidings(
        tmp_path, "replay", "--until", "2001-01-01T00:00Z", "--into", "memory://", "--json"
    )
    assert (late.code, late.json["read"]) == (0, 0)


async def test_verify_finds_a_planted_difference_and_repair_mends_it(tmp_path: Path) -> None:
    """A record that says what no event said is named with exit 1.

    Its repair reaches clients with a higher version.
    """
    async with serving(tmp_path) as service:
        await finished_events(tmp_path)
        async with Client(service.url) as client:
            await client.finished("p19", timeout=30)
            equal = await tidings(tmp_path, "replay", "--verify", "--json")
            assert (equal.code, equal.json["equal"], equal.json["faults"]) == (0, 20, 0)
        await service.stop()
        await tamper(tmp_path, "p3", prompt="a dog")
        await service.start()
        found = await tidings(tmp_path, "replay", "--verify", "--json")
        assert (found.code, found.json["different"]) == (1, 1)
        assert [one["predictionId"] for one in found.json["examples"]] == ["p3"]
        sound = await tidings(tmp_path, "replay", "--verify", "--only", "p4", "--json")
        assert (sound.code, sound.json["compared"], sound.json["equal"]) == (0, 1, 1)
        async with Client(service.url) as client, client.watch("p3") as watch:
            wrong = await anext(watch)
            assert isinstance(wrong, Prediction)
            assert wrong.prompt == "a dog"
            dry = await tidings(tmp_path, "replay", "--repair", "--dry-run")
            assert (dry.code, "different  1" in dry.out) == (1, True)
            repaired = await tidings(tmp_path, "replay", "--repair", "--json")
            assert (repaired.code, repaired.json["repaired"]) == (0, 1)
            async with asyncio.timeout(20):
                mended = await anext(watch)
            assert isinstance(mended, Prediction)
            assert (mended.prompt, mended.version) == ("a cat", wrong.version + 1)
        after = await tidings(tmp_path, "replay", "--verify", "--json")
        assert (after.code, after.json["faults"], after.json["equal"]) == (0, 0, 20)


async def test_dead_letters(tmp_path: Path) -> None:
    """Poison is listed with its reason, shown whole, tried again, and exported."""
    async with serving(tmp_path):
        await append(tmp_path, b"nonsense", {"predictionId": "q", "status": "sleeping"})

        async def both() -> bool:
            listed = await tidings(tmp_path, "dead-letters", "list", "--json")
            assert listed.code == 0
            return bool(listed.json["count"] == 2)

        await eventually(both, within=30)
        listed = await tidings(tmp_path, "dead-letters", "list")
        assert "0:0  p" in listed.out
        shown = await tidings(tmp_path, "dead-letters", "show", "0:0", "--json")
        assert (shown.json["value"], shown.json["attempt"], shown.json["predictionId"]) == (
            "nonsense",
            1,
            "p",
        )
        reason = shown.json["reason"]
        dry = await tidings(tmp_path, "dead-letters", "redrive", "--all", "--dry-run", "--json")
        assert dry.json == {"redriven": 2, "skipped": 0, "dryRun": True}
        done = await tidings(tmp_path, "dead-letters", "redrive", "0:0", "--rate", "50", "--json")
        assert (done.code, done.json["redriven"]) == (0, 1)

        async def tried_again() -> bool:
            again = await tidings(tmp_path, "dead-letters", "list", "--reason", reason, "--json")
            (group,) = again.json["reasons"]
            return [letter["attempt"] for letter in group["letters"]] == [1, 2]

        await eventually(tried_again, within=30)
    exported = await tidings(
        tmp_path, "dead-letters", "export", "letters.jsonl", "--prediction", "q"
    )
    assert exported.out == "1 written to letters.jsonl\n"
    (line,) = (tmp_path / "letters.jsonl").read_text().splitlines()
    assert json.loads(json.loads(line)["value"])["status"] == "sleeping"
    assert (await tidings(tmp_path, "dead-letters", "export", "letters.jsonl")).code == 2
    assert (await tidings(tmp_path, "dead-letters", "show", "0:99")).code == 1


async def test_watch_prints_changes(tmp_path: Path) -> None:
    """`watch` prints each change as it comes, as records with `--json`, and ends when all have finished."""
    async with serving(tmp_path) as service:
        words = ("watch", "p1", "p2", "--finished", "--url", service.url)
        plain = asyncio.create_task(tidings(tmp_path, *words))
        as_json = asyncio.create_task(tidings(tmp_path, *words, "--json"))
        for status in ("processing", "succeeded"):
            await append(
                tmp_path, *({"predictionId": name, "status": status} for name in ("p1", "p2"))
            )
        assert (await plain).code == 0
        assert "p2 v" in (await plain).out
        records = [json.loads(line) for line in (await as_json).out.splitlines()]
        assert {
            record["predictionId"] for record in records if record["status"] == "succeeded"
        } == {"p1", "p2"}


async def test_a_question_is_shown_and_answered(tmp_path: Path) -> None:
    """`answer` shows what is asked, answers it by text or JSON, and says why it was not taken."""
    question = {"text": "How many?", "choices": [1, "none"]}
    asked = {"status": "processing", "waiting": True, "question": question}
    await append(tmp_path, {"predictionId": "p1", **asked}, {"predictionId": "p2", **asked})
    async with serving(tmp_path) as service:
        where = ("--url", service.url)
        shown = await tidings(tmp_path, "answer", "p1", *where)
        assert (shown.code, 'waits: How many? [1, "none"] (number 1)' in shown.out) == (0, True)
        for words in (("7",), ("none", "--question", "2")):
            refused = await tidings(tmp_path, "answer", "p1", *words, *where)
            assert (refused.code, bool(refused.line)) == (1, True)
        answered = await tidings(tmp_path, "answer", "p1", "none", "--json", *where)
        assert json.loads(answered.out)["answer"] == "none"
        answered = await tidings(
            tmp_path, "answer", "p2", "1", "--parse", "--question", "1", "--json", *where
        )
        assert json.loads(answered.out)["answer"] == 1
        nothing = await tidings(tmp_path, "answer", "p1", *where)
        assert nothing.code == 1


async def test_watch_makes_its_own_token(tmp_path: Path) -> None:
    """On the service's machine `watch` needs no token: it signs one with the service's secret."""
    settings = {"TIDINGS_JWT_SECRET": SECRET}
    await append(tmp_path, {"predictionId": "p1", "status": "failed", "error": "no"})
    async with serving(tmp_path, settings) as service:
        refused = await tidings(tmp_path, "watch", "p1", "--url", service.url)
        assert refused.code == 1
        here = {**settings, "TIDINGS_PORT": str(service.port)}
        ended = await tidings(tmp_path, "watch", "p1", "--finished", settings=here)
        assert (ended.code, "failed no" in ended.out) == (0, True)


async def test_demo_moves_at_once(tmp_path: Path) -> None:
    """`demo` prints the page's address, its predictions end with real pictures, and Ctrl-C ends it with 0."""
    demo = TidingsProcess(tmp_path, arguments=("demo",))
    await demo.start()
    try:
        await eventually(lambda: f"The page is at {demo.url}" in demo.output)
        async with asyncio.timeout(60), Client(demo.url) as client, client.watch(all=True) as watch:
            async for update in watch:
                if isinstance(update, Prediction) and update.status == "succeeded":
                    break
        assert isinstance(update, Prediction)
        assert update.prompt
        assert update.image_url is not None
        assert update.image_url.endswith(".png")
    finally:
        demo.signal(signal.SIGINT)
        assert await demo.ended() == 0


async def test_specifications_are_printed(tmp_path: Path) -> None:
    """`openapi` prints a valid document of OpenAPI 3.1, `asyncapi` one of AsyncAPI 3.0."""
    OpenAPIV31SpecValidator((await tidings(tmp_path, "openapi")).json).validate()
    assert (await tidings(tmp_path, "asyncapi", "--json")).json["asyncapi"].startswith("3.")
