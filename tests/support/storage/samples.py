"""Records and writes for the tests of stores."""

from typing import Any
from uuid import uuid4

from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.prediction import (
    Prediction,
    Producer,
    Source,
    Status,
    TextPart,
    Tombstone,
    Transition,
    encode,
)
from tidings.storage.store import Write

HOUR = 3_600_000


def fresh(word: str = "p") -> str:
    """A name that nothing else uses."""
    return f"{word}-{uuid4().hex[:12]}"


def prediction(
    prediction_id: str, version: int = 1, status: Status = Status.STARTING, **fields: Any
) -> Prediction:
    fields.setdefault("created_at", SYSTEM_CLOCK.ms())
    fields.setdefault("updated_at", fields["created_at"])
    return Prediction(prediction_id=prediction_id, version=version, status=status, **fields)


def writing(
    record: Prediction | Tombstone,
    expected: int,
    *,
    expires_at: int | None = None,
    purge_at: int | None = None,
) -> Write:
    return Write(record, encode(record), expected, expires_at, purge_at)


def creation(prediction_id: str, **fields: Any) -> Write:
    return writing(prediction(prediction_id, **fields), 0)


def tombstone(prediction_id: str, version: int, **fields: Any) -> Tombstone:
    return Tombstone(
        prediction_id=prediction_id,
        deleted=True,
        version=version,
        updated_at=SYSTEM_CLOCK.ms(),
        **fields,
    )


def complete(prediction_id: str) -> Prediction:
    """A record with every field, each of an odd value."""
    from msgspec import Raw

    return Prediction(
        prediction_id=prediction_id,
        status=Status.SUCCEEDED,
        version=2**53 + 1,
        created_at=1_764_000_000_000,
        updated_at=1_764_000_000_001,
        payload=Raw(
            b'{"seed":17454220438242315174,"nested":[1.0,1e400,-0.0,"\\u0000",null],\n "b":1, "a":2}'
        ),
        prompt='a "quoted" \\ line\nwith\ttabs, \x00, \x7f, ☃, 😀 and \u2028',
        model="owner/model:5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa",
        provider="replicate",
        provider_id="0gfvxrs7dhrga0cjrwpr",
        provider_urls=Raw(b'{"get":"https://example.com/?a=1&b=%20"}'),
        owner="",
        tags=("", "ünï", "a,b", "{x}"),
        output=Raw(b"null"),
        text="piece by piece, \x00, ☃ and 😀",
        text_length=2**20,
        text_missing=2**53,
        text_epoch=7,
        text_closed=True,
        text_parts=(TextPart(f"sha256-{'a' * 64}", 32_765, 2**32 - 1),),
        text_tail="",
        text_producers=(Producer("w/1", 0, 2**53),),
        image_url="https://example.com/1.png",
        image_path="/assets/1.png",
        assets=Raw(b"[]"),
        error="",
        progress=0.1,
        logs="x" * 1_000_000,
        logs_length=3_000_000,
        estimated_time=0,
        generation_time=1e300,
        cancel_requested_at=0,
        attempt="a1",
        create_id="c1",
        pending=Status.SUCCEEDED,
        assets_error="gone",
        transitions=(
            Transition(None, Status.STARTING, 1, "e1", "s", "0:1"),
            Transition(Status.STARTING, Status.FAILED, 2),
        ),
        source=Source("log-1", {"0": 2**62, "11": 0}),
    )
