"""Files and folders that their owner alone can read: prompts, outputs and raw webhooks lie in them.

The folders of archived files bear the secret of their addresses in their names, so that listing
them is reading them.
"""

import os
from contextlib import suppress
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600
OTHERS = 0o077
"""The rights of group and others."""


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner alone.

    One that is there stays as it is.

    Raises:
        OSError: It cannot be made, or something else has its name.
    """
    missing = []
    for above in (folder, *folder.absolute().parents):
        if above.exists():
            break
        missing.append(above)
    for one in reversed(missing):
        one.mkdir(FOLDER_MODE, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")


def make_file(file: Path) -> None:
    """Make an empty file for its owner alone; one that is there stays as it is.

    SQLite gives its write-ahead log and its index the rights of the database. So this is enough for
    all three, whatever the umask is: a library has that of its program, mostly 022.

    Raises:
        OSError: It cannot be made.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def open_to_others(place: Path) -> bool:
    """Whether other users of this machine have a right to a file or folder."""
    try:
        return bool(place.stat().st_mode & OTHERS)
    except OSError:
        return False
