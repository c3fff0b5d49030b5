"""One file that holds everything embedded: log, store, assets and the key of the webhook URLs.

It is made while the service runs. What matters is the order: first what the groups have committed,
then the store, then the log, then the assets. So the copied log holds every event that the copied
store has seen, and every file that a record names is there. Its groups are set back to before the
store's copy; what they read again is known by its position.
"""

import io
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tidings.config.settings import Settings, SettingsError, sqlite_path
from tidings.config.webhook_key import FILE as KEY_FILE
from tidings.storage.object_storage import folder_of
from tidings.storage.private_files import make_folder
from tidings.streams.log.sqlite import backup as sqlite_backup

FORMAT = 1
MANIFEST = "tidings-backup.json"
LOG, STORE, KEY, ASSETS = "log.db", "store.db", KEY_FILE, "assets"

SIDE_FILES = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps beside a database (sqlite.org/tempfiles.html)."""


class BadBackup(ValueError):
    """The file cannot be restored from; the message says why and what to do."""


class Manifest(Struct, frozen=True, rename="camel"):
    """What a backup says of itself."""

    format: int
    version: str
    """Of the program that made it."""
    made_at: int
    """In ms."""


class Summary(Struct, frozen=True, rename="camel"):
    """What was put into a backup, or taken out of one."""

    file: str
    bytes: int
    assets: int
    """Files of archived outputs and large fields."""
    made_at: int


class Places(Struct, frozen=True):
    """Where the embedded data lies."""

    log: Path
    store: Path
    key: Path
    assets: Path | None
    """None: not in files of this machine."""


def places_of(settings: Settings) -> Places:
    """Where the settings put the embedded data.

    Raises:
        SettingsError: The log or the store is not embedded, or there are two stores.
    """
    for name, url in (("TIDINGS_LOG", settings.log), ("TIDINGS_STORE", settings.store)):
        if not url.startswith("sqlite://"):
            shown = settings.shown(name.removeprefix("TIDINGS_").lower())
            raise SettingsError(
                f"{name}: {shown} is not embedded; back up a server by its own means, and rebuild "
                "a lost store from "
                "the log with tidings replay"
            )
    if settings.store_split is not None:
        raise SettingsError(
            "TIDINGS_STORE_SPLIT: a backup holds one store, and a part of the predictions lies in "
            "another; back both up "
            "by their own means, or move them into one with tidings replay"
        )
    assets = folder_of(settings.assets)
    return Places(
        sqlite_path(settings.log),
        sqlite_path(settings.store),
        settings.data_folder / KEY_FILE,
        assets,
    )


def make(places: Places, file: Path, version: str) -> Summary:
    """Write a backup, whole or not at all.

    Args:
        places: Of the data, which may be in use.
        file: To be written; nothing may be there.
        version: Of the program.

    Raises:
        FileExistsError, OSError: The file is there already, or cannot be written.
        LogError: The data cannot be read.
    """
    if file.exists():
        raise FileExistsError(f"{file}: is there already; name a new file")
    for there in (places.log, places.store):
        if not there.exists():
            raise FileNotFoundError(
                f"{there}: is not there; start the service first, or name its folder"
            )
    manifest = Manifest(FORMAT, version, time.time_ns() // 1_000_000)
    with tempfile.TemporaryDirectory(
        dir=file.absolute().parent, prefix=".tidings-backup-"
    ) as folder:
        work = Path(folder)
        positions = sqlite_backup.committed(places.log)
        sqlite_backup.copy(places.store, work / STORE)
        sqlite_backup.copy(places.log, work / LOG)
        sqlite_backup.set_back(work / LOG, positions)
        draft = work / "draft"
        count = 0
        # It holds the key of the webhook URLs, and everything that was ever reported.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            with tarfile.open(fileobj=out, mode="w") as tar:
                said = tarfile.TarInfo(MANIFEST)
                body = msgspec.json.encode(manifest)
                said.size, said.mtime = len(body), manifest.made_at // 1000
                tar.addfile(said, io.BytesIO(body))
                for name in (LOG, STORE):
                    tar.add(work / name, name)
                    (work / name).unlink()
                if places.key.exists():
                    tar.add(places.key, KEY)
                count = _add_assets(tar, places.assets)
            out.flush()
            os.fsync(out.fileno())
        size = draft.stat().st_size
        os.link(
            draft, file
        )  # unlike a rename it does not replace what somebody has put there meanwhile
    return Summary(str(file), size, count, manifest.made_at)


def _add_assets(tar: tarfile.TarFile, folder: Path | None) -> int:
    count = 0
    if folder is None or not folder.is_dir():
        return 0
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                tar.add(path, f"{ASSETS}/{path.relative_to(folder)}")
            except FileNotFoundError:  # its prediction was deleted a moment ago
                continue
            count += 1
    return count


def restore(places: Places, file: Path) -> Summary:
    """Put a backup's data where the settings say, and nothing else; the service must not run.

    Raises:
        BadBackup: It is none, of another format, or incomplete.
        FileExistsError: There is data already.
        OSError: It cannot be read, or the data not be written.
    """
    for there in (places.log, places.store, places.key):
        if there.exists():
            raise FileExistsError(
                f"{there}: is there already; move the old data away, or name another place"
            )
    for there in (places.log, places.store):
        for left in (there.with_name(there.name + suffix) for suffix in SIDE_FILES):
            if left.exists():
                raise FileExistsError(
                    f"{left}: was left by an earlier {there.name}, and SQLite would read it into "
                    "the restored one; "
                    "move it away with the old data"
                )
    if places.assets is not None and places.assets.is_dir() and any(places.assets.iterdir()):
        raise FileExistsError(
            f"{places.assets}: is not empty; move the old files away, or name another "
            "TIDINGS_ASSETS"
        )
    try:
        with tarfile.open(file, mode="r:") as tar:
            return _restore(places, file, tar)
    except (tarfile.TarError, EOFError) as error:
        raise BadBackup(f"{file}: is no backup of Tidings, or not a whole one ({error})") from error


def _restore(places: Places, file: Path, tar: tarfile.TarFile) -> Summary:
    members = {member.name: member for member in tar.getmembers()}
    manifest = _manifest(file, tar, members)
    if missing := {LOG, STORE} - members.keys():
        raise BadBackup(f"{file}: {min(missing)} is missing in it; it is not a whole backup")
    count = 0
    folder = places.log.absolute().parent
    make_folder(folder)
    # The log last: without it nothing starts on half of what is restored.
    for name, target in ((KEY, places.key), (STORE, places.store)):
        if name in members:
            _extract(tar, members[name], target)
    for name, member in members.items():
        inside = Path(name)
        if inside.parts[0] == ASSETS and member.isfile() and places.assets is not None:
            if ".." in inside.parts:
                raise BadBackup(
                    f"{file}: {name} leads out of the folder; this is no backup that Tidings made"
                )
            _extract(tar, member, places.assets.joinpath(*inside.parts[1:]))
            count += 1
    _extract(tar, members[LOG], places.log)
    return Summary(str(file), file.stat().st_size, count, manifest.made_at)


def _manifest(file: Path, tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> Manifest:
    said = tar.extractfile(members[MANIFEST]) if MANIFEST in members else None
    try:
        manifest = msgspec.json.decode(said.read(), type=Manifest) if said is not None else None
    except msgspec.DecodeError:
        manifest = None
    if manifest is None:
        raise BadBackup(f"{file}: is no backup of Tidings; name a file that tidings backup made")
    if manifest.format != FORMAT:
        raise BadBackup(
            f"{file}: has format {manifest.format}, this version reads {FORMAT}; restore it with "
            f"Tidings {manifest.version}"
        )
    return manifest


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write a file whole under another name, and rename it."""
    content = tar.extractfile(member)
    if content is None:
        raise BadBackup(f"{member.name}: is no file; this is no backup that Tidings made")
    make_folder(target.parent)
    draft = target.with_name(f".{target.name}.restoring")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        shutil.copyfileobj(content, out, 1024 * 1024)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(target)
