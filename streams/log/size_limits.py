"""How large a record may be, the same for every log. Pure."""

from collections.abc import Sequence

from tidings.streams.log.protocol import NewRecord, RecordTooLarge

HEADROOM = 65_536
"""Bytes beyond `TIDINGS_MAX_BODY` that a record may take: its key, its headers and the log's own framing."""

_FEW_HEADERS = 12
_ORDINARY = 256
"""Bytes that key and headers are taken to have if they are few: the total steers batches, and need not be exact."""


def measure(records: Sequence[NewRecord], max_body: int) -> int:
    """About the bytes of these records; raises `RecordTooLarge` if one is over the limit."""
    total = 0
    limit = max_body + HEADROOM - 1024
    for record in records:
        size = len(record.value or b"")
        if size > limit or len(record.headers) > _FEW_HEADERS:
            size = _exact(record)
        total += size + _ORDINARY
        if size > limit:
            raise RecordTooLarge(
                f"a record of {size} bytes: the log takes values of {max_body}; raise TIDINGS_MAX_BODY (on Kafka also "
                "the topic's max.message.bytes)"
            )
    return total


def _exact(record: NewRecord) -> int:
    headers = sum(len(name) + len(value or b"") + 8 for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
