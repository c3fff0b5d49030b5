"""The cursor of a listing.

Where a page ended, in the order newest first by creation, ties by id, descending.

Pure. Every store uses it, so a cursor means the same everywhere: the next page starts below this
place, whatever was written or removed meanwhile.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

MAX_TIME = 2**63 - 1
"""What every store can compare with."""
MAX_LENGTH = 512
"""Characters: a time, a colon and an id of 256 bytes take 370."""


class ListingPlace(NamedTuple):
    """A place in a listing; tuples compare in the listing's (ascending) order."""

    created_at: int
    prediction_id: str


def encode_cursor(place: ListingPlace) -> str:
    """The opaque text for a place, safe in a URL."""
    return (
        urlsafe_b64encode(f"{place.created_at}:{place.prediction_id}".encode()).decode().rstrip("=")
    )


def decode_cursor(cursor: str) -> ListingPlace:
    """The place in a cursor.

    Raises:
        ValueError: The text is no cursor of a listing.
    """
    try:
        if len(cursor) > MAX_LENGTH:
            raise ValueError(cursor)
        text = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
        created_at, separator, prediction_id = text.partition(":")
        # `int` alone would take signs, spaces and underscores, and a time that no store can compare
        # with.
        if not created_at.isascii() or not created_at.isdecimal() or int(created_at) > MAX_TIME:
            raise ValueError(text)
        if not separator or not prediction_id or "\0" in prediction_id:
            raise ValueError(text)
        return ListingPlace(int(created_at), prediction_id)
    except (ValueError, binascii.Error):
        raise ValueError(
            f"{cursor[:80]!r} is no cursor; pass the `cursor` of the page before, or none"
        ) from None
