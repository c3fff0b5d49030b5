"""The least that the work costs in Python with the same libraries: no duplicates, audit trail, dead letters or retries.

Environment: KAFKA, FROM, TO, GROUP, STATE.
"""

import asyncio
import os
import sqlite3
import time

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

ALLOWED = {
    None: {"starting"},
    "starting": {"processing", "failed", "canceled"},
    "processing": {"succeeded", "failed", "canceled"},
}
TABLES = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "CREATE TABLE predictions (id TEXT PRIMARY KEY, doc BLOB NOT NULL)",
)
WRITE = "INSERT INTO predictions VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc"


class Event(msgspec.Struct, gc=False):
    """What it reads of an event."""

    predictionId: str  # noqa: N815 - as on the wire
    status: str
    id: str
    at: int
    prompt: str


class Prediction(msgspec.Struct, gc=False):
    """What it keeps."""

    id: str
    status: str
    prompt: str
    created_at: int
    at: int
    event: str


async def main() -> None:
    """Process until killed."""
    given = os.environ
    database = sqlite3.connect(given["STATE"] + "/bare.db", isolation_level=None)
    for statement in TABLES:
        database.execute(statement)
    decode, encode = msgspec.json.Decoder(Event).decode, msgspec.json.Encoder().encode
    states: dict[str, Prediction] = {}
    consumer = AIOKafkaConsumer(
        given["FROM"],
        bootstrap_servers=given["KAFKA"],
        group_id=given["GROUP"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=given["KAFKA"],
        acks="all",
        enable_idempotence=True,
        max_batch_size=1_000_000,
    )
    await consumer.start()
    await producer.start()
    commit: asyncio.Task[None] | None = None
    while True:
        fetched = await consumer.getmany(timeout_ms=500, max_records=2000)
        rows, sent, now = [], [], time.time_ns() // 1_000_000
        for partition, records in fetched.items():
            batch = producer.create_batch()
            for record in records:
                event = decode(record.value)
                known = states.get(event.predictionId)
                status = None if known is None else known.status
                if event.status not in ALLOWED.get(status, ()):
                    continue
                known = Prediction(
                    event.predictionId,
                    event.status,
                    event.prompt if known is None else known.prompt,
                    event.at if known is None else known.created_at,
                    event.at,
                    event.id,
                )
                states[event.predictionId] = known
                value = encode(known)
                rows.append((event.predictionId, value))
                batch.append(timestamp=now, key=record.key, value=value, headers=[])
            batch.close()
            sent.append((batch, partition.partition))
        if not rows:
            continue
        database.execute("BEGIN IMMEDIATE")
        database.executemany(WRITE, rows)
        database.execute("COMMIT")
        for future in [await producer.send_batch(b, given["TO"], partition=p) for b, p in sent]:
            await future
        if commit is None or commit.done():
            commit = asyncio.create_task(consumer.commit())


if __name__ == "__main__":
    uvloop.run(main())
