"""The changes topic's records: what is announced, and what is read back."""

from typing import Any

import pytest

from tests.support.streams.events import event, record
from tidings.storage.prediction import encode
from tidings.streams.changes.codec import announcement, parse
from tidings.streams.log.protocol import CHANGES, Headers, NewRecord, Position, StoredRecord


def stored(new: NewRecord, headers: Headers | None = None) -> StoredRecord:
    """The record as a reader gets it."""
    return StoredRecord(
        CHANGES, 0, 5, 77, new.key, new.value, new.headers if headers is None else headers
    )


def test_a_change_says_what_routing_needs() -> None:
    """What was announced is what is read, without a look at the value."""
    made = record(event("processing", owner="o", model="m", tags=("a", "b")))
    announced = announcement(
        made, encode(made), position=Position(0, 3), expires_at=9, traceparent=b"00-a"
    )
    change = parse(stored(announced))
    assert change is not None
    assert (change.version, change.status, change.owner, change.model) == (
        1,
        "processing",
        "o",
        "m",
    )
    assert (change.tags, change.position, change.expires_at) == (("a", "b"), Position(0, 3), 9)
    assert (change.traceparent, change.value, change.deleted) == ("00-a", encode(made), False)


@pytest.mark.parametrize(
    "header", [("v", None), ("s", None), ("p", b"x"), ("o", b"\xff"), ("v", b"9" * 5000)]
)
def test_what_is_no_change_of_ours_is_passed_over(header: Any) -> None:
    """A header that is null or nonsense makes a record somebody else's, and harms no reader."""
    made = record(event("processing"))
    announced = announcement(made, encode(made), position=Position(0, 3))
    assert parse(stored(announced, [*announced.headers, header])) is None


def test_many_tags_are_read_in_a_moment() -> None:
    """The time to read a change grows with its tags, not with their square."""
    headers = [("v", b"1"), *[("t", b"%d" % number) for number in range(200_000)]]
    change = parse(StoredRecord(CHANGES, 0, 5, 77, b"p1", b"{}", headers))
    assert change is not None
    assert len(change.tags) == 200_000
