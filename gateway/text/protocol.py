"""The words of the Durable Streams protocol 1.0 as they are used here: offsets, cursors, headers.

Pure. Sections are those of PROTOCOL.md in the repository `durable-streams/durable-streams`.
"""

import re
from urllib.parse import quote

from msgspec import Struct

NEXT_OFFSET = "Stream-Next-Offset"
UP_TO_DATE = "Stream-Up-To-Date"
CLOSED = "Stream-Closed"
CURSOR = "Stream-Cursor"
SEQUENCE = "Stream-Seq"
PRODUCER_ID = "Producer-Id"
PRODUCER_EPOCH = "Producer-Epoch"
PRODUCER_SEQ = "Producer-Seq"
EXPECTED_SEQ = "Producer-Expected-Seq"
RECEIVED_SEQ = "Producer-Received-Seq"

LARGEST = 2**53 - 1
"""Of a producer's numbers (5.2.1)."""

CURSOR_EPOCH = 1_728_432_000
"""Seconds: 9 October 2024, from where the intervals of cursors are counted (10.1)."""
CURSOR_SECONDS = 20

TOKEN = re.compile(r"([0-9]{10})_([0-9]{16})", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)


class Offset(Struct, frozen=True):
    """A place in a text: the version it was last replaced at, and the bytes before the place."""

    epoch: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.epoch:010d}_{self.bytes:016d}"


def parse_offset(token: str) -> Offset | None:
    """The place that a token names; None: it is none of ours."""
    match = TOKEN.fullmatch(token)
    return None if match is None else Offset(int(match[1]), int(match[2]))


def number(text: str) -> int | None:
    """A decimal number up to the largest; None: it is none."""
    if _NUMBER.fullmatch(text) is None or int(text) > LARGEST:
        return None
    return int(text)


def cursor(now: float, given: str | None, jitter: int) -> int:
    """The cursor of an answer: beyond the one that the client brought, so that no cache turns in circles.

    Args:
        now: Seconds since the epoch.
        given: What the client brought.
        jitter: Intervals to go on by if it brought the present one, 1 at least.
    """
    present = int(now - CURSOR_EPOCH) // CURSOR_SECONDS
    brought = number(given) if given is not None else None
    return present if brought is None or brought < present else brought + jitter


def etag(prediction_id: str, start: Offset, end: Offset, *, closed: bool) -> str:
    """The tag of what lies between two places (10.1)."""
    return f'"{quote(prediction_id, safe="")}:{start}:{end}{":c" if closed else ""}"'


def data_event(text: str) -> bytes:
    """The event of a piece: every line of it is one of the event's (5.8)."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    # One space behind the colon is taken for a separator.
    parts = [f"data:{' ' if line.startswith(' ') else ''}{line}\n" for line in lines]
    return f"event: data\n{''.join(parts)}\n".encode()


def control_event(end: Offset, cursor: int, *, up_to_date: bool, closed: bool) -> bytes:
    """The event behind each piece: where the next one begins, and whether there is any."""
    told = f'"streamNextOffset":"{end}"'
    if closed:
        told += ',"streamClosed":true,"upToDate":true'
    else:
        told += f',"streamCursor":"{cursor}"'
        if up_to_date:
            told += ',"upToDate":true'
    return f"event: control\ndata:{{{told}}}\n\n".encode()
