"""A gateway's push side in a process of its own, told by lines on its standard input what to measure.

Answers each command with one line of JSON. Its clients are in the process that started it.
"""

import asyncio
import gc
import json
import os
import random
import resource
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from msgspec import structs

from tidings.gateway.auth.quotas import OwnerLimits, OwnerQuotas, SessionLimits
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims, TokenAuthenticator
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.protocol import append_message, change_frame, frame
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.push.text_hub import TextHub
from tidings.gateway.websocket.connection import WebSocketConnection
from tidings.gateway.websocket.listener import Listener
from tidings.observability.gc_tuning import freeze_startup_objects
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import announcement, parse
from tidings.streams.changes.text_codec import piece
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, TEXT, NewRecord, Position, StoredRecord

RECORD_BYTES = 400


def cpu() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rss() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def record(prediction_id: str, version: int) -> Prediction:
    """A record whose change message is 400 bytes."""
    bare = Prediction(
        prediction_id=prediction_id, status=Status.PROCESSING, version=version, created_at=10**12, updated_at=10**12,
        owner="someone", logs="",
    )  # fmt: skip
    fill = RECORD_BYTES - 31 - len(encode(bare))
    return Prediction(
        **{name: getattr(bare, name) for name in bare.__struct_fields__} | {"logs": "x" * fill}
    )


class Bench:
    """The gateway and what is measured on it."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.memory = MemoryStore()
        self.store = CachedStore(self.memory)
        self.hub = Hub()
        authenticator = (
            TokenAuthenticator([Hs256Tokens(sys.argv[1].encode(), RequiredClaims())])
            if len(sys.argv) > 1
            else None
        )  # and a guard in front, as the service has both
        guard = RequestGuard(authenticator=authenticator)
        owners = OwnerQuotas(
            OwnerLimits(connections=10**6, subscriptions=10**6, messages_per_second=10**6)
        )  # the tokens differ, but are all one subject's
        self.texts = TextHub(self.log, self.hub, self.store, window=0)
        self.sessions = SessionRegistry(
            self.hub, self.store, authenticator, SessionLimits(), owners=owners, texts=self.texts
        )
        self.reader = ChangesReader(self.log, self.hub, self.store, texts=self.texts)
        self.listener = Listener(self.sessions, self._no_http, guard.admit_websocket)
        self.versions = 0
        self.grown = 0
        """Bytes of the text."""
        self.crc = 0
        self.stall = 0.0
        self.probe: asyncio.Task[None] | None = None
        self.living: asyncio.Task[None] | None = None
        self.versions_of: dict[str, int] = {}

    def _no_http(self) -> asyncio.Protocol:
        raise ValueError("the benchmark's clients speak WebSocket only")

    def connections(self) -> list[WebSocketConnection]:
        groups = self.sessions._groups
        return [one for group in groups for one in group if isinstance(one, WebSocketConnection)]

    def announcements(self, count: int, names: Callable[[int], str]) -> list[NewRecord]:
        """Changes as the topic has them, each of another version than any before."""
        made = []
        for number in range(count):
            self.versions += 1
            one = record(names(number), self.versions)
            made.append(announcement(one, encode(one), position=Position(0, self.versions)))
        return made

    async def start(self, count: int = 0) -> dict[str, Any]:
        """Start; with records to be subscribed to."""
        if count:
            records = [record(f"own-{number:06}", 1) for number in range(count)]
            await self.memory.write([Write(one, encode(one), 0) for one in records])
            await self.store.load([one.prediction_id for one in records])
        await self.reader.start()
        await self.reader.ready()
        port = await self.listener.start()
        freeze_startup_objects()  # as the service does
        return {"port": port}

    async def start_text(self) -> dict[str, Any]:
        """Start, with one text that can grow."""
        one = structs.replace(record("the-text", 1), text="", text_length=0, logs=None)
        await self.memory.write([Write(one, encode(one), 0)])
        await self.store.load(["the-text"])
        await self.texts.start()
        return await self.start()

    async def paced_text(self, bare: bool, rounds: int, every: float) -> dict[str, Any]:
        """Let the text grow by a piece, `rounds` times; or write the same bytes in a bare loop."""
        spent = 0.0
        one = structs.replace(record("the-text", 1), logs=None)
        for _ in range(rounds):
            told = append_message("the-text", self.grown, "token token ", None, None)
            data = frame(told)
            await asyncio.sleep(every)
            begun = cpu()
            if bare:
                for transport in [one._transport for one in self.connections()]:
                    if transport is not None:
                        transport.write(data)
            else:
                target = self.hub.deliveries + len(self.sessions)
                said = piece(
                    one,
                    1,
                    b"token token ",
                    before=self.grown,
                    crc=self.crc,
                    position=Position(0, 1),
                )
                self.grown += 12
                self.crc = zlib.crc32(b"token token ", self.crc)
                await self.log.append(TEXT, [said])
                while self.hub.deliveries < target:  # noqa: ASYNC110 -- an event would be measured too
                    await asyncio.sleep(0)
            spent += cpu() - begun
        return {"cpu": spent}

    async def measure(self) -> dict[str, Any]:
        """Where things stand."""
        stall, self.stall = self.stall, 0.0
        return {
            "cpu": cpu(),
            "sys": resource.getrusage(resource.RUSAGE_SELF).ru_stime,
            "rss": rss(),
            "sessions": len(self.sessions),
            "stall": stall,
        }

    async def watch_stalls(self) -> dict[str, Any]:
        """From now on remember the longest time that the loop did not turn."""
        self.probe = asyncio.create_task(self._probe())
        return {}

    async def _probe(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            self.stall = max(self.stall, time.perf_counter() - before - 0.005)

    async def paced(
        self, bare: bool, rounds: int, every: float, burst: int, distinct: bool
    ) -> dict[str, Any]:
        """Announce `burst` changes in one batch, `rounds` times; or write the same bytes in a bare loop."""
        spent = 0.0
        sizes = 0
        for _ in range(rounds):
            new = self.announcements(
                burst, lambda number: f"burst-{number:04}" if distinct else "the-one"
            )
            data = b"".join([_frame(one) for one in new]) if bare else b""
            await asyncio.sleep(every)
            begun = cpu()
            if bare:
                transports = [one._transport for one in self.connections()]
                for transport in transports:
                    if transport is not None:
                        transport.write(data)
            else:
                target = self.hub.deliveries + burst * len(self.sessions)
                await self.log.append(CHANGES, new)
                while self.hub.deliveries < target:  # noqa: ASYNC110 -- an event would be measured too
                    await asyncio.sleep(0)
            spent += cpu() - begun
            sizes += len(data)
        return {"cpu": spent, "backed_up": sum(one.session.backed_up for one in self.connections())}

    async def live(self, count: int, rate: int, seconds: float) -> dict[str, Any]:
        """From now on change `count` predictions of four owners at this rate in all, and then end each."""
        self.living = asyncio.create_task(self._live(count, rate, seconds))
        return {}

    async def final(self) -> dict[str, Any]:
        """The last version of each prediction, once every change has been announced; empty until then."""
        return self.versions_of if self.living is not None and self.living.done() else {}

    async def _live(self, count: int, rate: int, seconds: float) -> None:
        versions = self.versions_of = {f"p{number}": 0 for number in range(count)}
        names = list(versions)
        begun = time.perf_counter()
        sent = 0
        while (spent := time.perf_counter() - begun) < seconds:
            due = int(spent * rate) - sent
            sent += due
            await self._advance([random.choice(names) for _ in range(due)], Status.PROCESSING)
            await asyncio.sleep(0.01)
        await self._advance(names, Status.SUCCEEDED)

    async def _advance(self, names: list[str], status: Status) -> None:
        announced = []
        for name in names:
            version = self.versions_of[name] = self.versions_of[name] + 1
            one = Prediction(
                prediction_id=name, status=status, version=version, created_at=10**12, updated_at=10**12 + version,
                owner=f"o{int(name[1:]) % 4}", logs="x" * 200,
            )  # fmt: skip
            await self.store.write([Write(one, encode(one), version - 1)])
            announced.append(announcement(one, encode(one), position=Position(0, self.versions)))
            self.versions += 1
        if announced:
            await self.log.append(CHANGES, announced)

    async def unwatched(self, count: int) -> dict[str, Any]:
        """Announce changes that nobody watches; `bare`: look each one's key up in as large a table, and no more."""
        new = self.announcements(count, lambda number: f"nobody-{number % 1000:04}")
        records = [
            StoredRecord(CHANGES, 0, number, 0, one.key, one.value, one.headers)
            for number, one in enumerate(new)
        ]
        watched = dict.fromkeys(
            f"prediction:own-{number:06}" for number in range(len(self.sessions))
        )
        gc.collect()
        begun = cpu()
        for start in range(0, count, 500):
            await self.reader._take(records[start : start + 500])
        between = cpu()
        found = sum(f"prediction:{(one.key or b'').decode()}" in watched for one in records)
        return {"cpu": between - begun, "bare": cpu() - between, "found": found}

    async def marked(self, count: int, rate: int, seconds: float) -> dict[str, Any]:
        """Change `count` predictions in turn at this rate; each change's logs begin with when, in ns of this machine."""
        begun = time.perf_counter()
        sent = 0
        spent = cpu()
        while (passed := time.perf_counter() - begun) < seconds:
            due = int(passed * rate) - sent
            new = []
            for number in range(sent, sent + due):
                self.versions += 1
                bare = record(f"marked-{number % count:05}", self.versions)
                one = structs.replace(
                    bare, logs=f"mark {time.perf_counter_ns()} {bare.logs}"[: len(bare.logs or "")]
                )
                new.append(announcement(one, encode(one), position=Position(0, self.versions)))
            sent += due
            if new:
                await self.log.append(CHANGES, new)
            await asyncio.sleep(0.005)
        return {
            "sent": sent,
            "version": self.versions,
            "cpu": cpu() - spent,
            "rss": rss(),
            "conflated": self.conflated(),
        }

    def conflated(self) -> int:
        """Changes that newer ones have replaced, those of sessions that are backed up still included."""
        waiting = [one.session._queue for one in self.connections()]
        return self.sessions.conflated + sum(
            queue.conflated for queue in waiting if queue is not None
        )

    async def closes(self) -> dict[str, Any]:
        """How many connections were closed from here, by code."""
        return {str(code): count for code, count in self.sessions.closed.items()}


def _frame(new: NewRecord) -> bytes:
    change = parse(StoredRecord(CHANGES, 0, 0, 0, new.key, new.value, new.headers))
    return b"" if change is None else change_frame(change)


async def serve() -> None:
    """Answer commands until the input ends."""
    bench = Bench()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        name, arguments = json.loads(line)
        command: Callable[..., Awaitable[dict[str, Any]]] = getattr(bench, name)
        print(json.dumps(await command(**arguments)), flush=True)


if __name__ == "__main__":
    uvloop.run(serve())
