"""Words and times in lists, and how many records a list has.

Every store is searched alike: its pages are read one after the other, and a record is looked at
without decoding more than its id and prompt. A search is bounded in records and in time; the cursor
of its answer goes on.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from tidings.gateway.http.problems import bad_request
from tidings.storage.store import Query, Stored
from tidings.storage.wrappers.cache import CachedStore

MAX_TEXT = 200
"""Characters of the words that are searched for."""
LOOKED_THROUGH = 50_000
"""Records that one request looks through."""
SEARCH_SECONDS = 1.0
"""After which a search answers with what it has found."""
LARGEST_CHUNK = 1000
CHUNK_BYTES = 1024 * 1024
"""Bytes of records that a search reads at a time, about."""
MOST_COUNTED = 100_000
"""Records that a count looks at: 0.1 to 0.2 s in SQLite."""


class _Head(Struct, rename="camel"):
    prediction_id: str
    prompt: Any = None
    payload: Any = None


_heads = msgspec.json.Decoder(_Head)


class Search:
    """Words that a record must have in its id or its prompt, in this order, whatever their case.

    The record whose id they are is found first, however old. A prompt that lies apart (over 32 KiB)
    is not searched.
    """

    def __init__(self, words: str) -> None:
        self.words = words
        self._folded = words.casefold()
        self.apart = 0
        """Records that were looked at whose prompt lies apart."""

    @classmethod
    def of(cls, text: str | None) -> "Search | None":
        """The search for this parameter; None if there is none.

        Raises:
            Problem: 400 for words that are too long.
        """
        words = (text or "").strip()
        if len(words) > MAX_TEXT:
            raise bad_request("Bad text", f"The text has more than {MAX_TEXT} characters.")
        return cls(words) if words else None

    def matches(self, stored: Stored) -> bool:
        """Whether the record has the words, and they are not its whole id: that one is looked up."""
        head = _heads.decode(stored.encoded)
        if head.prediction_id == self.words:
            return False
        if isinstance(head.prompt, dict):
            self.apart += 1
        return (
            self._in(head.prediction_id) or self._in(head.prompt) or self._in_payload(head.payload)
        )

    def next_chunk(self, items: list[Stored], chunk: int) -> int:
        """How many records to read next: about `CHUNK_BYTES`, going by the last ones."""
        size = sum(len(stored.encoded) for stored in items) // max(1, len(items))
        return max(1, min(2 * chunk, LARGEST_CHUNK, CHUNK_BYTES // max(1, size)))

    def _in(self, text: Any) -> bool:
        return isinstance(text, str) and self._folded in text.casefold()

    def _in_payload(self, payload: Any) -> bool:
        return isinstance(payload, dict) and self._in(payload.get("prompt"))


def time_of(parameters: Mapping[str, str], name: str) -> int | None:
    """A time in ms, given so or by ISO 8601 (without a zone: UTC); raises a 400."""
    given = parameters.get(name)
    if given is None:
        return None
    if given.isascii() and given.isdecimal() and len(given) <= 15:
        return int(given)
    try:
        moment = datetime.fromisoformat(given.replace(" ", "+"))  # a plus sign is a space in a URL
    except ValueError:
        raise bad_request(
            "Bad time", f"{name} is {given[:40]!r}; say 2026-01-31T12:00Z, or ms since the epoch."
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def error_of(text: str | None) -> str | None:
    """The code or the words of an error that is asked for; raises a 400."""
    if text is not None and not 1 <= len(text) <= MAX_TEXT:
        raise bad_request("Bad error", f"The error has 1 to {MAX_TEXT} characters.")
    return text


async def counted(
    store: CachedStore, query: Query | None, caller: str | None, *, groups: bool = False
) -> bytes:
    """How many records the query's filters but the status match, by status, as JSON.

    `{"total": n, "complete": true, "byStatus": {...}}`; not complete: at least so many. `null`
    if the store cannot count, or if the caller may see some records alone.
    """
    if query is None:
        return b"null"
    wanted = msgspec.structs.replace(query, status=None, cursor=None, limit=1, groups=groups)
    if wanted.owners == ():
        counts: dict[str, int] | None = {}
    else:
        async with store.reads.turn(caller):
            counts = await store.count(wanted, MOST_COUNTED + 1)
    if counts is None:
        return b"null"
    total = sum(counts.values())
    return msgspec.json.encode(
        {"total": total, "complete": total <= MOST_COUNTED, "byStatus": counts}
    )
