"""Reports about a prediction through Kafka: `python producer.py 127.0.0.1:9092 p1`. It takes the package aiokafka."""

import asyncio
import json
import sys

from aiokafka import AIOKafkaProducer

REPORTS = (
    {"status": "processing", "progress": 0.5, "prompt": "a jersey"},
    {"status": "succeeded", "imageUrl": "https://example.com/jersey.png"},
)


async def main(brokers: str, prediction_id: str) -> None:
    """Send both reports; the key keeps them in their order."""
    # Tidings and the Java client choose partitions by murmur2, and this default does too.
    async with AIOKafkaProducer(bootstrap_servers=brokers, acks="all") as producer:
        for report in REPORTS:
            value = json.dumps({"predictionId": prediction_id, **report}).encode()
            await producer.send_and_wait("predictions.events", value, key=prediction_id.encode())
    print("sent")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
