"""All kinds of harm at once: the process lives within its memory, and another owner is served."""

from pathlib import Path

import pytest
from msgspec import Struct

from tests.chaos.hostile.hour import KINDS, LIMIT_MIB, hour, table


class Form(Struct, frozen=True):
    """How long, and what an owner beside it may notice."""

    quiet: float
    hostile: float
    floor: float
    """Seconds of the 99th percentile that are right whatever the quiet one was: all attackers and the
    owner share the machine with the service here, and one large webhook takes tens of milliseconds."""


SHORT = Form(4.0, 15.0, floor=1.0)
FULL = Form(60.0, 3600.0, floor=0.25)


@pytest.mark.parametrize(
    "form", [SHORT, pytest.param(FULL, marks=pytest.mark.long)], ids=["short", "hour"]
)
async def test_nobody_takes_anothers_place(tmp_path: Path, form: Form) -> None:
    """50 clients of one owner, 20 senders and 10 strangers attack: memory stays bounded, and another owner is served."""
    found = await hour(tmp_path, form.quiet, form.hostile, seed=7)
    assert found.alive
    assert found.hostile.peak_mib < LIMIT_MIB, table(found)
    assert found.hostile.failures == 0, table(found)
    assert max(found.stalls, default=0.0) < 0.5, table(found)
    for kind in KINDS:
        allowed = max(2 * found.quiet.quantile(kind, 0.99), form.floor)
        assert found.hostile.quantile(kind, 0.99) <= allowed, table(found)
