"""What `serve` would refuse, `doctor` says, in the same words: both ask the same code."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import tidings
from tests.support.tidings_process import serving

WEAK = "x"
KEY = {"TIDINGS_WEBHOOK_KEY": "0123456789abcdef0123456789abcdef"}


async def _served_before(folder: Path) -> None:
    async with serving(folder):
        pass


async def _of_another_log(folder: Path) -> None:
    await _served_before(folder)
    for part in ("log.db", "log.db-wal", "log.db-shm"):
        (folder / "data" / part).unlink(missing_ok=True)
    async with serving(folder, {"TIDINGS_STORE": "memory://"}):
        pass


def _key_of_nothing(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "webhook.key").write_text("\n")


def _no_database(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "store.db").write_text("this is no database, and longer than its header" * 9)


def _no_log(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "log.db").write_text("this is no database, and longer than its header" * 9)


def _nothing(_folder: Path) -> None:
    pass


CASES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "the fallback is the store": (_nothing, {"TIDINGS_STORE_FALLBACK": "sqlite:///data/store.db"}),
    "an arm on KV": (
        _nothing,
        {"TIDINGS_STORE_SPLIT": "cloudflare-kv://a/n=10", "TIDINGS_CLOUDFLARE_TOKEN": "t"},
    ),
    "a role without the key": (_nothing, {"TIDINGS_ROLE": "archiver"}),
    "an empty key": (_key_of_nothing, {}),
    "an address for all": (_nothing, {"TIDINGS_HOST": "0.0.0.0"}),
    "another log": (_of_another_log, {}),
    "other rules": (_served_before, {"TIDINGS_STRICT": "1"}),
    "another size": (_served_before, {"TIDINGS_RECORD_MAX": "100000"}),
    "a store that is none": (_no_database, {}),
    "a log that is none": (_no_log, {}),
    "a provider's secret": (_nothing, {"TIDINGS_REPLICATE_SECRET": "whsec_!"}),
    "another server's store": (_nothing, {"TIDINGS_STORE": "postgresql://u:p@127.0.0.1:1/x"}),
}


@pytest.mark.parametrize("kind", CASES)
async def test_doctor_says_what_serve_refuses(tmp_path: Path, kind: str) -> None:
    """The service ends with one line, and the doctor has it, or fails itself with it."""
    prepare, settings = CASES[kind]
    if (preparing := prepare(tmp_path)) is not None:
        await preparing  # type: ignore[misc]
    doctor = await tidings(tmp_path, "doctor", "--json", settings=settings)
    refused = await tidings(tmp_path, "serve", "--port", "0", settings=settings)
    assert refused.code != 0
    (line,) = [one for one in refused.err.splitlines() if one.startswith("tidings: ")]
    assert doctor.code != 0, line
    if doctor.out:
        said = [part["says"] for part in doctor.json["parts"] if part["state"] == "failed"]
    else:
        said = [doctor.line.removeprefix("tidings: ")]
    assert line.removeprefix("tidings: ") in said
