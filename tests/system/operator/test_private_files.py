"""What is kept is its owner's alone, whatever the umask.

Data, files, large fields, keys, exports, backups.
"""

import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.support.webhooks import get, signed
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.private_files import make_folder

SETTINGS = {"TIDINGS_REPLICATE_SECRET": webhooks.SECRET}


@pytest.fixture(autouse=True)
def usual_rights(tmp_path: Path) -> Iterator[None]:
    tmp_path.chmod(0o755)
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What lies in a folder, itself included, and others have rights to."""
    return [
        f"{path.relative_to(folder.parent)} {stat.S_IMODE(path.stat().st_mode):o}"
        for path in [folder, *folder.rglob("*")]
        if path.stat().st_mode & 0o077
    ]


async def test_a_service_leaves_nothing_readable(tmp_path: Path) -> None:
    """The data folder and each file in it, an archived one and a large field among them.

    And what commands write.
    """
    async with serving(tmp_path, SETTINGS) as service, aiohttp.ClientSession() as session:
        body = webhooks.report(
            "p1", output=["data:text/plain,hello"], input={"prompt": "x" * 40_000}
        )
        await session.post(f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body))

        async def archived() -> bool:
            record = await get(session, service.url, "p1")
            return record is not None and bool(record.get("assets"))

        await eventually(archived, 30)
        assert len(list((tmp_path / "data" / "assets").rglob("*"))) > 4
        assert open_to_others(tmp_path / "data") == []
        assert "readable_by_others" not in service.output
        for words in (
            ("backup", "b.tar"),
            ("audit", "export", "--out", "trail.jsonl"),
            ("dead-letters", "export", "letters.jsonl"),
        ):
            assert (await tidings(tmp_path, *words)).code == 0
    for name in ("b.tar", "trail.jsonl", "letters.jsonl"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    again = tmp_path / "again"
    again.mkdir()
    assert (await tidings(again, "restore", "--yes", "../b.tar")).code == 0
    assert open_to_others(again / "data") == []


async def test_data_of_an_earlier_version_is_named(tmp_path: Path) -> None:
    """Files that others can read are named at the start and by the doctor, and nothing is changed."""
    async with serving(tmp_path, SETTINGS):
        pass
    (tmp_path / "data").chmod(0o755)
    log = tmp_path / "data" / "log.db"
    log.chmod(0o644)
    async with serving(tmp_path, SETTINGS) as service:
        await eventually(lambda: "data.readable_by_others" in service.output)
    assert stat.S_IMODE(log.stat().st_mode) == 0o644
    parts = {
        one["part"]: one for one in (await tidings(tmp_path, "doctor", "--json")).json["parts"]
    }
    assert parts["assets"]["state"] == "warning"
    assert "chmod go= data/log.db" in parts["assets"]["says"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f'[providers.replicate]\nsecret = "{webhooks.SECRET}"\n', True),
        ('api_keys = ["a-key-of-more-than-thirty-two-characters"]\n', True),
        ("partitions = 3\n", False),
    ],
)
async def test_settings_with_secrets_are_named(tmp_path: Path, text: str, named: bool) -> None:
    """A settings file that holds a secret and that others can read is named; any other is not."""
    file = tmp_path / "tidings.toml"
    file.write_text(text)
    found = (await tidings(tmp_path, "doctor", "--json")).json["parts"]
    says = {one["part"]: one["says"] for one in found}["assets"]
    assert ("chmod go= tidings.toml" in says) is named
    file.chmod(0o600)
    found = (await tidings(tmp_path, "doctor", "--json")).json["parts"]
    assert "chmod" not in {one["part"]: one["says"] for one in found}["assets"]


async def test_files_of_a_program_of_its_own(tmp_path: Path) -> None:
    """The library makes no use of the process's umask: its object storage is private by itself."""
    objects = ObjectStorage(f"file:///{tmp_path}/new/assets")
    await objects.put("a/0", b"x")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(3_000_000)

    await objects.put_stream("b/0", chunks())
    assert open_to_others(tmp_path / "new") == []


def test_folders_are_made_for_their_owner(tmp_path: Path) -> None:
    """Each that is missing; one that is there stays as it is, and a file in the way is an error."""
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file" / "below")
