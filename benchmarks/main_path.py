"""Count what a webhook passes through: `python -m benchmarks.main_path [--list]`.

One process on SQLite serves everything; a client outside of it posts a webhook of Replicate and watches the prediction by
WebSocket. Every call of a function of this project is counted from the first one of the request to the `write` of the
frame, on every thread (comprehensions are no calls, and a coroutine that goes on is not called again). Of several rounds
the one with the fewest counts: others hold a timer that happened to be due.
"""

import argparse
import asyncio
import inspect
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = tuple(f"{ROOT / name}{os.sep}" for name in ("storage", "streams", "gateway", "tidings"))
ROUNDS = 12
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SUSPENDS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

CLIENT = """
import asyncio, json, sys
import aiohttp
from tests.support import webhooks
async def main():
    url = sys.argv[1]
    async with aiohttp.ClientSession() as session, session.ws_connect(url + "/api/ws") as socket:
        await socket.receive()
        for number in range(int(sys.argv[2])):
            name = f"main-path-{number}"
            await socket.send_json({"type": "subscribe", "predictions": [name]})
            while (await socket.receive_json())["type"] != "synced":
                pass
            await asyncio.sleep(0.3)
            print("begin", flush=True)
            sys.stdin.readline()
            body = webhooks.report(name)
            posting = asyncio.ensure_future(
                session.post(url + "/api/webhooks/replicate", data=body, headers=webhooks.signed(body))
            )
            while (await socket.receive_json())["type"] != "change":
                pass
            (await posting).release()
            print("end", flush=True)
            sys.stdin.readline()
asyncio.run(main())
"""


class Counter:
    """Calls of the project's functions, in order, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.calls: list[CodeType | None] = []
        """None: bytes were handed to a transport by the push side."""
        self._entries: dict[CodeType, int] = {}

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(FOLDERS):
            # asyncio's transport, called by whoever pushes.
            if self.on and event == "call" and code.co_name == "write" and (back := frame.f_back):
                caller = back.f_code.co_filename
                if caller.startswith(FOLDERS) and ("/push/" in caller or "/websocket/" in caller):
                    self.calls.append(None)
            return
        if event == "call":
            if code.co_flags & SUSPENDS:
                # The lowest instruction that it was ever entered at is its beginning; others are where it goes on.
                first = self._entries.setdefault(code, frame.f_lasti)
                if frame.f_lasti > first:
                    return
                self._entries[code] = frame.f_lasti
            if self.on and (code.co_name[0] != "<" or code.co_name == "<lambda>"):
                self.calls.append(code)


async def count(counter: Counter) -> list[list[CodeType]]:
    """The calls of each round."""
    from tidings.config.loader import load_settings
    from tidings.runtime.service import running

    rounds = []
    # Without the archiver: it would ask for the sample's picture, which is nowhere.
    environ = {
        "TIDINGS_REPLICATE_SECRET": SECRET,
        "TIDINGS_WEBHOOK_KEY": "k" * 32,
        "TIDINGS_ROLE": "gateway,processor",
    }
    settings = load_settings({"port": 0}, environ=environ, config=None)
    async with running(settings) as service:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT, f"http://127.0.0.1:{service.port}", str(ROUNDS)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        for _ in range(ROUNDS):
            assert await client.stdout.readline() == b"begin\n"
            counter.calls, counter.on = [], True
            client.stdin.write(b"\n")
            assert await client.stdout.readline() == b"end\n"
            counter.on = False
            rounds.append(counter.calls)
            client.stdin.write(b"\n")
        await client.wait()
    return [
        [code for code in calls[: calls.index(None)] if code is not None]
        for calls in rounds[2:]
        if None in calls
    ]


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print every call in order")
    options = parser.parse_args()
    counter = Counter()
    os.chdir(tempfile.mkdtemp())
    threading.setprofile(counter)
    sys.setprofile(counter)
    try:
        rounds = asyncio.run(count(counter))
    finally:
        sys.setprofile(None)
    calls = min(rounds, key=len)
    files = [str(Path(code.co_filename).relative_to(ROOT)) for code in calls]
    if options.list:
        for code, file in zip(calls, files, strict=True):
            print(f"{file}:{code.co_firstlineno} {code.co_qualname}")
    changes = sum(1 for one, two in itertools.pairwise(files) if one != two)
    print(json.dumps({"calls": len(calls), "files": len(set(files)), "changes of file": changes}))


if __name__ == "__main__":
    main()
