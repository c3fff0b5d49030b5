"""When records are hidden and purged, whatever times their producers set."""

import pytest

from tests.support.storage.samples import prediction, tombstone
from tidings.storage.prediction import Status
from tidings.streams.rules.reducer import DAY, Expiry, Reduction

NOW = 1_800_000_000_000
YEARS = 10 * 365 * DAY
EXPIRY = Expiry(ttl=1_000, ttl_running=2_000, retention=3_000)


@pytest.mark.parametrize(("appended", "counted"), [(NOW - 500, NOW - 500), (NOW + YEARS, NOW)])
def test_it_counts_from_the_earlier_of_the_records_time_and_now(
    appended: int, counted: int
) -> None:
    """A producer whose clock is years ahead does not keep a record for years; one that is late is late."""
    running = Reduction(prediction("p", status=Status.PROCESSING), recorded_at=appended)
    assert EXPIRY.of(running, None, NOW) == (counted + 2_000, counted + 5_000 + DAY)
    ended = Reduction(
        prediction("p", status=Status.SUCCEEDED), recorded_at=appended, stepped_at=appended
    )
    assert EXPIRY.of(ended, None, NOW) == (counted + 1_000, counted + 4_000 + DAY)
    gone = Reduction(tombstone("p", 2), recorded_at=appended)
    assert EXPIRY.of(gone, None, NOW) == (None, counted + 3_000 + DAY)
