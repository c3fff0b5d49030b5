"""The first hour of a front-end developer, a back-end developer and an operator."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.system.first_hour.back_end import back_end
from tests.system.first_hour.front_end import front_end
from tests.system.first_hour.operator import operator
from tests.system.first_hour.steps import Hour


@pytest.mark.parametrize("script", [front_end, back_end, operator])
async def test_the_first_hour(tmp_path: Path, script: Callable[[Hour], Awaitable[None]]) -> None:
    """What the documents say works as it stands there, in a fresh folder."""
    hour = Hour(tmp_path)
    await script(hour)
    assert len(hour.steps) >= 4
