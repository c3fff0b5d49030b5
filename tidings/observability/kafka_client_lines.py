"""What aiokafka logs, in this service's words: an event name, what it means, and no line twice in a minute.

The client writes a line at each failed try, several a second while a broker is away, with the names
of its own classes. What it says is kept in the field `client`.
"""

import logging
import re
import time
from typing import Any

from structlog.typing import EventDict

AGAIN = 60.0
"""Seconds in which a line that says the same is left out."""
REMEMBERED = 200

_MEANINGS = tuple(
    (re.compile(pattern, re.IGNORECASE), event, meaning)
    for pattern, event, meaning in (
        (
            r"unable (to )?connect|unable to (request|update) metadata|no broker|connectionerror",
            "kafka.broker_away",
            "a broker cannot be reached; it is tried again",
        ),
        (
            r"not available during auto-create|unknown_?topic|leader_?not_?available|notleader",
            "kafka.topic_moving",
            "a partition has no leader for now; it is tried again",
        ),
        (
            r"heartbeat|rebalanc|generation|member|coordinator|revok|(re-?)?join",
            "kafka.group_changing",
            "the group's members change; partitions are reassigned",
        ),
        (
            r"commit",
            "kafka.commit_failed",
            "offsets could not be committed; records since then are read again",
        ),
        (
            r"timed? ?out|timeout",
            "kafka.slow",
            "the broker did not answer in time; it is asked again",
        ),
        (
            r"auth|sasl|ssl|certificate",
            "kafka.access",
            "the broker refuses this client; check its user, password and rights",
        ),
    )
)
OTHER = "kafka.client", "the Kafka client reports trouble"


class KafkaClientFilter(logging.Filter):
    """Lets a line of aiokafka through if none with its meaning was written within `AGAIN`."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        if not record.name.startswith("aiokafka"):
            return True
        text = record.getMessage()
        if text.startswith("Unable connect"):
            return False  # at each refused connection; the caller reports the failure once
        event, _ = meaning_of(text)
        key = event if event != OTHER[0] else text[:200]
        now = time.monotonic()
        if now - self._last.get(key, -AGAIN) < AGAIN:
            return False
        if len(self._last) >= REMEMBERED:
            self._last.clear()
        self._last[key] = now
        return True


def meaning_of(text: str) -> tuple[str, str]:
    """The event's name and what it means."""
    for pattern, event, meaning in _MEANINGS:
        if pattern.search(text):
            return event, meaning
    return OTHER


def kafka_client_line(logger: Any, method: str, event: EventDict) -> EventDict:  # noqa: ARG001 - structlog's signature
    """The line of a log record of aiokafka; others are left as they are."""
    if str(event.get("logger", "")).startswith("aiokafka"):
        text = str(event["event"])
        event["event"], event["meaning"] = meaning_of(text)
        event["client"] = text
    return event
