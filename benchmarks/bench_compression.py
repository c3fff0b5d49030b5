"""What permessage-deflate would cost: CPU and memory of each connection, beside frames that all share.

python -m benchmarks.bench_compression
"""

import os
import random
import time
from pathlib import Path

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from tidings.gateway.push.protocol import change_frame
from tidings.storage.prediction import Prediction, Status, encode
from tidings.streams.changes.codec import Change

MESSAGES = 2_000
CONNECTIONS = 500
KINDS = {
    "each message for itself": {"takeover": False, "bits": 15, "memory": 8},
    "with its context, 32 KiB": {"takeover": True, "bits": 15, "memory": 8},
    "with its context, 4 KiB": {"takeover": True, "bits": 12, "memory": 5},
}


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def deflate(takeover: bool, bits: int, memory: int) -> PerMessageDeflate:
    return PerMessageDeflate(
        remote_no_context_takeover=not takeover,
        local_no_context_takeover=not takeover,
        remote_max_window_bits=bits,
        local_max_window_bits=bits,
        compress_settings={"memLevel": memory},
    )


def records() -> list[Change]:
    choice = random.Random(1)
    made = []
    for number in range(MESSAGES):
        one = Prediction(
            prediction_id=f"p-{number % 50:06}",
            status=Status.PROCESSING,
            version=number,
            created_at=1764000000000 + number,
            updated_at=1764000000000 + number * 1000,
            owner="someone",
            model="black-forest-labs/flux-dev",
            prompt="a jersey on a hanger",
            progress=round(choice.random(), 3),
            logs=f"Using seed: {choice.randrange(10**7)}\nGenerating...\n",
        )
        made.append(Change(one.prediction_id, number, encode(one), "processing"))
    return made


def main() -> None:
    changes = records()
    frames = [Frame(Opcode.TEXT, change_frame(change)[4:]) for change in changes]
    size = sum(len(frame.data) for frame in frames)
    begun = time.process_time()
    for change in changes:
        change_frame(change)
    shared = (time.process_time() - begun) / MESSAGES * 1e6
    print(f"{'':26} {'size':>5} {'CPU a message':>20} {'memory a connection':>20}")
    print(f"{'not compressed':26} {1:5.0%} {shared:8.2f} µs for all {0:16.1f} KiB")
    for name, kind in KINDS.items():
        one = deflate(**kind)  # type: ignore[arg-type]
        begun = time.process_time()
        out = sum(len(one.encode(frame).data) for frame in frames)
        each = (time.process_time() - begun) / MESSAGES * 1e6
        before = rss()
        kept = []
        for number in range(CONNECTIONS):
            kept.append(deflate(**kind))  # type: ignore[arg-type]
            kept[-1].encode(frames[number])
        memory = (rss() - before) / CONNECTIONS / 1024
        print(f"{name:26} {out / size:5.0%} {each:8.2f} µs for each {memory:15.1f} KiB")


if __name__ == "__main__":
    main()
