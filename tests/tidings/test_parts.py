"""What a process opens, as the settings say."""

from streams.log import CHANGES, NewRecord
from tidings.parts import log_of
from tidings.settings import Settings


async def test_the_log_takes_every_record() -> None:
    """Webhooks may be limited to less than a record may hold: what is announced still fits into the log."""
    log = await log_of(Settings(log="memory://", max_body=1024, record_max=200_000))
    await log.append(CHANGES, [NewRecord(b"p1", b"x" * 200_000)])
    await log.close()
