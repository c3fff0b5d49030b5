"""Reads records of the deliveries' topic, and says what cannot be read.

One record that a stranger or a later version has written must not keep all deliveries from being
sent: it is left, with a line in the log.
"""

from typing import TypeVar

import msgspec

from tidings.storage.loggers import get_logger
from tidings.streams.log.protocol import Record
from tidings.streams.notifications.delivery import Key, parse_key

T = TypeVar("T")

logger = get_logger(__name__)


def read(value: bytes | None, kind: type[T]) -> T | None:
    """What a record holds; None if it is empty or cannot be read."""
    if not value:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        logger.warning("notifier.unreadable", wanted=kind.__name__, error=str(error)[:200])
        return None


def key_of(record: Record) -> Key | None:
    """What a record is about; None if its key is none of ours."""
    key = parse_key(record.key)
    if key is None:
        logger.warning(
            "notifier.foreign_key",
            key=repr(record.key)[:80],
            partition=record.partition,
            offset=record.offset,
        )
    return key
