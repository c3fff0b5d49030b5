"""Memory, descriptors and files stay as they are under a steady load, on the embedded default."""

from pathlib import Path

import pytest

from tests.system.steady_load import Plan, Sample, judge, steady_load

SHORT = Plan(
    seconds=45, warm_up=20, every=1, ttl=3, day=2, minute=1, remembered=50, stays=4, growth=0.15
)
"""A record lives for 11 s in all, so several generations pass; memory that was just taken is not yet at its level."""


@pytest.mark.parametrize(
    "plan", [SHORT, pytest.param(Plan(), marks=pytest.mark.long)], ids=["short", "hour"]
)
async def test_nothing_grows_under_a_steady_load(tmp_path: Path, plan: Plan) -> None:
    """What expires leaves the files, and neither memory nor descriptors grow, while predictions and clients come and go."""
    grown = [str(verdict) for verdict in await steady_load(tmp_path, plan) if not verdict.holds]
    assert not grown


def test_growth_is_told_from_a_saw() -> None:
    """Memory 8% above, a descriptor leaked every 40 s and a file that only grows are named; what goes up and down is not."""

    def sample(second: int, *, grows: bool) -> Sample:
        saw = second % 100
        if not grows:
            return Sample(
                second,
                100_000_000 + saw,
                40 + saw % 3,
                9,
                5_000_000 + saw,
                1 << 25,
                1,
                1,
                saw,
                saw,
                0,
                0,
            )
        memory = int(100_000_000 * (1 + 0.16 * second / 3600))
        return Sample(
            second,
            memory,
            40 + second // 40,
            9,
            1000 * second,
            1 << 27,
            1,
            1,
            1000 * second,
            second,
            0,
            0,
        )

    def grown(samples: list[Sample]) -> set[str]:
        return {verdict.name for verdict in judge(samples, Plan()) if not verdict.holds}

    assert grown([sample(second, grows=False) for second in range(0, 3600, 10)]) == set()
    growing = grown([sample(second, grows=True) for second in range(0, 3600, 10)])
    assert growing == {"memory", "descriptors", "log", "log_wal", "assets", "asset_files"}
