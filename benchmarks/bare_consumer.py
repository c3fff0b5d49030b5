"""A bare aiokafka consumer that sends nothing: how long marked records take to it, and what each costs.

For benchmarks, beside the gateway: `python -m benchmarks.bare_consumer BOOTSTRAP TOPIC`. It answers each line on its
standard input with the times in ms since the last one, and its CPU seconds.
"""

import asyncio
import json
import sys
import time

import uvloop
from aiokafka import AIOKafkaConsumer

from benchmarks.push_server import cpu

MARK = b'"logs":"mark '


async def consume() -> None:
    """Read to the end of the input."""
    bootstrap, topic = sys.argv[1:]
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    await consumer.seek_to_end()
    took: list[float] = []

    async def read() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=500, max_records=2000)).values():
                now = time.perf_counter_ns()
                for record in records:
                    start = record.value.find(MARK) + len(MARK)
                    took.append(
                        (now - int(record.value[start : record.value.index(b" ", start)])) / 1e6
                    )

    reading = asyncio.create_task(read())
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps({"took": took, "cpu": cpu()}), flush=True)
        took.clear()
    reading.cancel()
    await consumer.stop()


if __name__ == "__main__":
    uvloop.run(consume())
