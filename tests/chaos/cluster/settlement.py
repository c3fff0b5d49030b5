"""The end of a run: everybody is held against the store, the store against what was sent and against the log."""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import msgspec

from tests.chaos.cluster.fault_report import Report
from tests.chaos.cluster.ledger import Ledger, Problem
from tests.chaos.cluster.life import Life
from tests.chaos.cluster.linked import LinkedCluster
from tests.chaos.cluster.watchers import Watcher
from tests.support.conditions import eventually
from tests.support.receiver import Receiver
from tests.support.root import ROOT
from tests.support.tidings_process import environment
from tidings.client.client import Client
from tidings.storage.prediction import Prediction
from tidings.streams.log.protocol import DEAD_LETTERS, Log, Record

WITHIN = 90.0
"""Seconds for everything to come to rest: after the last silence it is looked up."""
PAGE = 1000
ENDS = ("succeeded", "failed", "canceled")
"""Of what another server is told."""


class Settlement:
    """Notes in the ledger what does not hold.

    Args:
        cluster: Without load by now.
        log: A way to the topics apart from all links.
        ledger: What was sent.
        watchers: Still watching.
        report: Gets what is counted here.
        life: Groups and questions.
        receiver: The server that is told of each end.
        slack: What the time limit is multiplied by.
    """

    def __init__(
        self,
        cluster: LinkedCluster,
        log: Log,
        ledger: Ledger,
        watchers: Sequence[Watcher],
        report: Report,
        life: Life,
        receiver: Receiver,
        slack: float = 1.0,
    ) -> None:
        self._cluster = cluster
        self._log = log
        self._ledger = ledger
        self._watchers = watchers
        self._report = report
        self._life = life
        self._receiver = receiver
        self._within = WITHIN * max(1.0, slack)

    async def run(self) -> None:
        """All of it."""
        async with self._cluster.client() as client:

            async def rested() -> bool:
                found = await _records(client)
                sent = self._ledger.lines.values()
                return (
                    all(line.prediction_id in found for line in sent if line.acknowledged)
                    and all(
                        found[line.prediction_id].version >= line.acknowledged
                        for line in sent
                        if line.acknowledged
                    )
                    and self._life.rested(found)
                    and all(
                        _finished(one)
                        for name, one in found.items()
                        if name not in self._ledger.lines
                    )
                    and not self._behind(found)
                    and not self._untold(found)
                )

            with contextlib.suppress(AssertionError):
                await eventually(rested, self._within)
            found = await _records(client)
        self._sent_is_there(found)
        self._life.check(found)
        self._count(found.values())
        for who, name, has, version in self._behind(found):
            self._ledger.problem(
                Problem.BEHIND, f"{who} has {name} v{has}; the newest is v{version}"
            )
        self._all_told(found)
        await self._submitted_once()
        await self._dead_letters()
        await self._verify()

    def _sent_is_there(self, found: dict[str, Prediction]) -> None:
        for name, line in self._ledger.lines.items():
            one = found.get(name)
            if one is not None:
                self._ledger.settled(
                    name, one.version, tuple(step.to.value for step in one.transitions)
                )
                self._report.applied += min(one.version, line.acknowledged)
            elif line.acknowledged:
                self._ledger.problem(Problem.LOST, f"{name} is not in the store", line.acknowledged)
        for name, one in found.items():
            if name not in self._ledger.lines and not _finished(one):
                words = one.assets_error or one.error or "no file"
                self._ledger.problem(Problem.LOST, f"{name} ended as {one.status}: {words}")
        for name in self._ledger.made - found.keys():
            self._ledger.problem(Problem.LOST, f"{name} was created and is not in the store")

    def _count(self, found: Iterable[Prediction]) -> None:
        for one in found:
            self._report.groups += one.kind is not None
            self._report.deadlines += one.error_code == "deadline"
            self._report.retries += one.retry_of is not None
            self._report.answers += one.answered_at is not None

    def _behind(self, found: dict[str, Prediction]) -> list[tuple[str, str, int, int]]:
        """Who has not the newest of what it watches: the client, the prediction, its version there and in the store."""
        return [
            (watcher.name, name, watcher.newest.get(name, 0), one.version)
            for watcher in self._watchers
            for name, one in found.items()
            if watcher.watches(name, one.owner) and watcher.newest.get(name, 0) != one.version
        ]

    def _untold(self, found: dict[str, Prediction]) -> list[str]:
        """Those that have ended without a webhook that says so."""
        told = {(body["data"]["predictionId"], body["type"]) for _, body in self._receiver.taken}
        return [
            name
            for name, one in found.items()
            if one.status.terminal
            and (name, f"{one.kind or 'prediction'}.{one.status}") not in told
        ]

    def _all_told(self, found: dict[str, Prediction]) -> None:
        """Each end was told to the other server, under one id however often."""
        for name in self._untold(found):
            self._ledger.problem(Problem.LOST, f"no webhook said that {name} {found[name].status}")
        ids: dict[tuple[str, str], set[str]] = {}
        for webhook_id, body in self._receiver.taken:
            ids.setdefault((body["data"]["predictionId"], body["type"]), set()).add(webhook_id)
        for (name, type_), known in ids.items():
            if len(known) > 1:
                self._ledger.problem(Problem.TWICE, f"{name} {type_} was told as {sorted(known)}")
        self._report.webhooks = len(ids)

    async def _submitted_once(self) -> None:
        """The provider was asked for each prediction once: its list says by the webhook's address for which."""
        asked: Counter[str] = Counter()
        address: str | None = f"http://127.0.0.1:{self._cluster.demo.port}/v1/predictions"
        headers = {"Authorization": f"Bearer {self._cluster.secrets['TIDINGS_REPLICATE_TOKEN']}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            while address is not None:
                async with session.get(address) as response:
                    page = await response.json()
                asked.update(urlsplit(one["webhook"]).path for one in page["results"])
                address = page["next"]
        for path, count in asked.items():
            if count > 1:
                self._ledger.problem(
                    Problem.TWICE, f"{path} was submitted {count} times", count - 1
                )

    async def _dead_letters(self) -> None:
        """Every record of the storms lies among the dead letters; one that was put there again has the same position."""
        ends = {number: end for number, (_, end) in (await self._log.bounds(DEAD_LETTERS)).items()}
        read = dict.fromkeys(ends, 0)
        positions: dict[tuple[bytes, bytes], str] = {}
        following = cast(
            "AsyncGenerator[Sequence[Record], None]", self._log.follow(DEAD_LETTERS, "beginning")
        )
        async with contextlib.aclosing(following):
            while any(read[number] < end for number, end in ends.items()):
                for record in await asyncio.wait_for(anext(following), 30):
                    read[record.partition] = record.offset + 1
                    headers = dict(record.headers)
                    place = (headers["tidings-partition"], headers["tidings-offset"])
                    positions[place] = headers["tidings-error"].decode()
        self._report.dead_letters = len(positions)
        self._report.reasons = dict(Counter(positions.values()))
        if (missing := self._ledger.poison - len(positions)) > 0:
            self._ledger.problem(
                Problem.LOST, f"{missing} poisonous records are not among the dead letters", missing
            )

    async def _verify(self) -> None:
        """`tidings replay --verify`, as an operator runs it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings", "replay", "--verify", "--json"),
            cwd=self._cluster.folder,
            env=environment(
                {"PYTHONPATH": str(ROOT), **self._cluster.processes["processor-2"].settings}
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 300)
        with contextlib.suppress(msgspec.DecodeError):
            self._report.verified = msgspec.json.decode(out)
        # 3: predictions that lie in several partitions, since some were added, cannot be judged. That is no fault.
        judged = process.returncode != 3 or self._report.verified.get("faults") != 0
        if process.returncode and judged:
            words = f"{out.decode()[-1500:]} {err.decode()[-400:]}"
            self._ledger.problem(
                Problem.WRONG, f"replay --verify ended with {process.returncode}: {words}"
            )


async def _records(client: Client) -> dict[str, Prediction]:
    """All that the store has."""
    found = {one.prediction_id: one async for one in client.export(kind="group")}
    cursor: str | None = None
    while True:
        page = await client.list(limit=PAGE, cursor=cursor)
        found |= {one.prediction_id: one for one in page.data}
        cursor = page.cursor
        if cursor is None:
            return found


def _finished(one: Prediction) -> bool:
    """Whether a prediction that the provider makes has come the whole way, or what has no files has ended."""
    fileless = one.kind is not None or one.error_code is not None or bool(one.question)
    return one.status.terminal and (bool(one.assets) or fileless)
