"""What the drivers alone make of the original design's two loads: `python -m benchmarks.bare_original reads|updates ...`.

`reads COUNT`: an aiohttp handler that answers records out of a dict. `updates BOOTSTRAP PREFIX WORKER`: aiokafka reads
events, aiohttp posts them to the Worker in batches, aiokafka announces them. Neither decides, checks or remembers
anything beyond the versions that the Worker asks for. A line on standard output says that it is ready.
"""

import asyncio
import sys
from typing import Any

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.support.workerd import TOKEN

BATCH = 2000
"""Events read at once, and operations of a request: as many as the Worker takes."""
DOC = 700
"""Bytes of a record."""


class Operation(msgspec.Struct):
    """As the Worker takes it."""

    id: str
    if_version: str
    version: str
    status: str
    created_at: int
    doc: str


def say(line: object) -> None:
    print(line, flush=True)


async def reads(count: int) -> None:
    """Serve until killed; the line is the port."""
    bodies = {
        f"prediction-{number:08d}": b'{"success":true,"data":{"predictionId":"prediction-%08d","prompt":"%s"}}'
        % (number, b"x" * DOC)
        for number in range(count)
    }

    async def read(request: web.Request) -> web.Response:
        return web.Response(body=bodies[request.match_info["id"]], content_type="application/json")

    app = web.Application()
    app.router.add_get("/api/predictions/{id}", read)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(runner.addresses[0][1])
    await asyncio.Event().wait()


async def updates(bootstrap: str, prefix: str, worker: str) -> None:
    """Work until killed."""
    consumer = AIOKafkaConsumer(
        f"{prefix}predictions.events",
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}bare",
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    versions: dict[str, int] = {}
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        say("ready")
        while True:
            found = await consumer.getmany(timeout_ms=500, max_records=BATCH)
            last = {record.key: record for records in found.values() for record in records}
            if not last:
                continue
            body = msgspec.json.encode(
                {"ops": [operation(record, versions) for record in last.values()], "repeat": False}
            )
            async with session.post(f"{worker}/v1/batch", data=body) as answer:
                assert not any(msgspec.json.decode(await answer.read())["results"])
            sent = []
            for partition, records in found.items():
                sent += await announce(
                    producer, partition, [one for one in records if last[one.key] is one]
                )
            await asyncio.gather(*sent)


def operation(record: Any, versions: dict[str, int]) -> Operation:
    """What writes the record's next version."""
    one = record.key.decode()
    versions[one] = version = versions.get(one, 0) + 1
    doc = record.value.decode().ljust(DOC)
    return Operation(one, str(version - 1), str(version), "processing", record.timestamp, doc)


async def announce(producer: AIOKafkaProducer, partition: Any, records: list[Any]) -> list[Any]:
    """What resolves when the broker has the changes."""
    topic = partition.topic.removesuffix("events") + "changes"
    sent = []
    batch = producer.create_batch()
    for record in records:
        mark = [("p", f"{partition.partition}:{record.offset}".encode())]
        change = {
            "key": record.key,
            "value": record.value.ljust(DOC),
            "timestamp": None,
            "headers": mark,
        }
        if batch.append(**change) is None:
            batch.close()
            sent.append(await producer.send_batch(batch, topic, partition=partition.partition))
            batch = producer.create_batch()
            batch.append(**change)
    if batch.record_count():
        batch.close()
        sent.append(await producer.send_batch(batch, topic, partition=partition.partition))
    return sent


if __name__ == "__main__":
    _, what, *given = sys.argv
    uvloop.run(reads(int(given[0])) if what == "reads" else updates(*given))
