"""Putting the contents of large fields back into a record."""

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from tidings.storage.errors import StoreUnavailable
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Prediction
from tidings.streams.rules import large_fields as blobs


async def whole(objects: ObjectStorage, record: Prediction) -> Prediction:
    """The record with its payload and prompt themselves, whatever their size.

    Raises:
        StorageError: The object storage does not give them.
    """
    payload, prompt = blobs.reference(record.payload), blobs.reference(record.prompt)
    if payload is not None:
        record = replace(record, payload=Raw(await _content(objects, record, payload.hash)))
    if prompt is not None:
        record = replace(
            record,
            prompt=msgspec.json.decode(await _content(objects, record, prompt.hash), type=str),
        )
    return record


async def _content(objects: ObjectStorage, record: Prediction, name: str) -> bytes:
    content = await objects.get(blobs.path(record.prediction_id, name))
    if content is None:
        raise StoreUnavailable(
            f"{name} of {record.prediction_id} is not in the object storage {objects.shown}"
        )
    return content
