"""How records lie in Cloudflare KV: keys, values, and the metadata beside them."""

from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from tidings.storage.cloudflare.kv_client import Metadata, Pair, Value
from tidings.storage.prediction import Prediction, Status, decode
from tidings.storage.store import Query, Stored, Write, WriteRefused, as_read

PREDICTION, POSITION, OWNERSHIP = "prediction:", "position:", "ownership"
"""What keys begin with."""

MAX_VALUE = 25 * 1024 * 1024
"""Bytes of a value (Cloudflare, Workers KV, Limits)."""

MAX_METADATA = 1024
"""Bytes of a value's metadata (as above)."""

SHORTEST_LIFE = 65
"""Seconds. KV takes no expiry nearer than 60 s; the rest is for the way there and for clocks."""


class HeldRecord(Struct, frozen=True, gc=False):
    """A record in the writer's own copy."""

    stored: Stored
    metadata: Metadata
    purge_at: int | None

    def pair(self, key: str, now: int) -> Pair | None:
        """What KV is given, at this time in ms; None: nothing, as the record has expired.

        KV lets go of a record at its time to live, and of a tombstone when it is purged. What must
        outlive a record lies in the copy, and in the changes that the copy is restored from.
        """
        expires_at = None if self.stored.deleted else self.stored.expires_at
        if expires_at is not None and expires_at <= now:
            return None
        end = min((one for one in (expires_at, self.purge_at) if one is not None), default=None)
        expiration = None
        if end is not None:
            expiration = max(-(-end // 1000), now // 1000 + SHORTEST_LIFE)
        return Pair(key, self.stored.encoded.decode(), self.metadata, expiration)


def metadata_of(write: Write) -> Metadata:
    """What lies beside the record."""
    record = write.record
    alive = record if isinstance(record, Prediction) else None
    full = Metadata(
        str(record.version),
        record.status if isinstance(record, Prediction) else None,
        None if alive is None else alive.created_at,
        record.updated_at,
        write.expires_at,
        None if record.owner is None else quote(record.owner),
        None if record.model is None else quote(record.model),
    )
    if len(msgspec.json.encode(full)) <= MAX_METADATA:
        return full
    return msgspec.structs.replace(full, o=None, m=None, cut=True)


def stored_in(value: Value) -> Stored:
    """The record that was read."""
    encoded, meta = value.value.encode(), value.metadata
    if meta is None:
        record = decode(encoded)
        return as_read(record.version, record.status, encoded, None, record.owner)
    status = None if meta.s is None else Status(meta.s)
    found = as_read(
        int(meta.v), status, encoded, meta.x, None if meta.o is None else unquote(meta.o)
    )
    return msgspec.structs.replace(found, owner=found.standing().owner) if meta.cut else found


def may_match(query: Query, meta: Metadata, now: int) -> bool:
    """Whether a listing should look at the record.

    If metadata had no room for all, it should.
    """
    owner = None if meta.o is None else unquote(meta.o)
    return (
        meta.s is not None
        and (meta.x is None or meta.x > now)
        and (query.status is None or meta.s == query.status)
        and (meta.cut or query.owner is None or owner == query.owner)
        and (meta.cut or query.owners is None or owner in query.owners)
        and (
            meta.cut
            or query.model is None
            or (meta.m is not None and unquote(meta.m) == query.model)
        )
    )


def refusal_of(write: Write) -> WriteRefused | None:
    """Why KV will never take this record, if it will not."""
    if len(write.encoded) > MAX_VALUE:
        return WriteRefused(
            f"a value of Cloudflare KV has at most {MAX_VALUE} bytes, this record {len(write.encoded)}"
        )
    try:
        write.encoded.decode()
    except UnicodeDecodeError as error:
        return WriteRefused(f"the record is not UTF-8: {error}")
    return None
