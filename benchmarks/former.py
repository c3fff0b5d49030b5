"""A former commit of this checkout, to measure beside it."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.root import ROOT


@contextmanager
def checked_out(commit: str | None) -> Iterator[Path | None]:
    """The files of a commit in a folder of their own; None: there is none to compare with.

    They are run by this checkout's interpreter, with the folder before what is installed (`PYTHONPATH`).
    """
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="tidings-former-") as folder:
        packed = subprocess.run(
            ("git", "archive", commit), cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(("tar", "x", "-C", folder), input=packed.stdout, check=True)
        yield Path(folder)
