"""The suite of faults: `python -m tests.chaos.cluster.faults --minutes 30 --seed N --rate 50`, or `make faults`.

On a cluster of real processes, under a steady load, parts are killed, frozen, cut off, slowed, filled up and led astray
in an order that a seed decides, while clients watch whose every message is held against what was sent. It ends with 1
where something acknowledged was lost or applied twice, a client saw a version twice, ended without the newest, or news
took too long to flow again.
"""

import argparse
import asyncio
import contextlib
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.chaos.cluster.fault_report import Outcome, Report, as_json, progress, table
from tests.chaos.cluster.ledger import Ledger, Line, Problem
from tests.chaos.cluster.linked import LinkedCluster, linked
from tests.chaos.cluster.load import OWNERS, PARTITIONS, Load
from tests.chaos.cluster.schedule import Fault, Kind, UnknownFault, schedule
from tests.chaos.cluster.settlement import ENDS, Settlement
from tests.chaos.cluster.watchers import Watcher, crowd
from tests.support.conditions import eventually
from tests.support.receiver import SECRET, Receiver
from tidings.client.progress import parse
from tidings.client.subscription import SUBPROTOCOL
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import Log

WARM_UP = 3.0
EVERYONE = 45.0
"""Seconds within which every client must have come back: their own waits grow with the length of an outage."""
LOOK = 1.5
"""Seconds into a fault at which the processes are asked whether they are ready; those that say no are shown."""
SILENCE = 60.0
"""Seconds without news after which a prediction is looked up."""
READY = 20.0
"""Seconds after a fault within which every process must say that it is ready."""

Say = Callable[[str], None]


class Plan(Struct, frozen=True):
    """What to run."""

    faults: Iterator[Fault]
    seconds: float
    """Under load; 0: until the schedule ends."""
    seed: int
    rate: float
    clients: int
    slack: float = 1.0
    """By which the limits are multiplied, where others use the machine too."""


class Suite:
    """One run on one cluster.

    Args:
        cluster: Running.
        log: A way to the topics apart from all links.
        receiver: The server that is told by webhooks.
        plan: What to do.
        say: Where lines for the terminal go.
    """

    def __init__(
        self, cluster: LinkedCluster, log: Log, receiver: Receiver, plan: Plan, say: Say
    ) -> None:
        self.cluster = cluster
        self.receiver = receiver
        self.ledger = Ledger()
        self.load = Load(cluster, log, self.ledger, plan.rate, plan.seed)
        self.watchers = crowd(cluster, self.ledger, plan.clients, OWNERS)
        self._log = log
        self._plan = plan
        self._say = say
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=4))
        self.report = Report(plan.seed, plan.rate, 0.0, plan.clients, [], untested=cluster.untested)

    async def run(self) -> Report:
        """Everything, to the report."""
        await eventually(
            self._ready, 60
        )  # the notifier's start, too, is noted: from now on all is told
        watching = [asyncio.create_task(one.run(), name=one.name) for one in self.watchers]
        sending = asyncio.create_task(self.load.run())
        began = time.monotonic()
        try:
            await eventually(lambda: all(one.connected for one in self.watchers), 60)
            await self._probe(time.monotonic())
            await asyncio.sleep(WARM_UP)
            for fault in self._plan.faults:
                if self._plan.seconds and time.monotonic() - began > self._plan.seconds:
                    break
                if self.cluster.possible(fault):
                    await self._one(fault)
                self._still_running([*watching, sending])
            self.load.stop()
            await asyncio.wait_for(sending, 300)
            await Settlement(
                self.cluster,
                self._log,
                self.ledger,
                self.watchers,
                self.report,
                self.load.life,
                self.receiver,
                self._plan.slack,
            ).run()
        finally:
            for task in [*watching, sending]:
                task.cancel()
            await asyncio.wait([*watching, sending])
            await self.load.close()
            await self._session.close()
        self.report.minutes = (time.monotonic() - began) / 60
        self.report.sent_again = self.load.again
        self.report.connections = sum(one.connections for one in self.watchers)
        self.report.close(self.ledger)
        return self.report

    def _still_running(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _one(self, fault: Fault) -> None:
        """One fault, and how long it takes until news flows again."""
        await asyncio.sleep(fault.pause)
        calm, _ = await self._probe(time.monotonic())
        self._say(f"{time.strftime('%H:%M:%S')} {fault}")
        began = time.monotonic()
        not_ready: dict[str, list[str]] = {}
        try:
            if fault.kind is Kind.POISON:
                await self.load.poison(fault.seconds)
            elif fault.kind is Kind.FLOOD:
                await self.load.flood(fault.seconds)
            elif fault.kind is Kind.PARTITIONS:
                await self.load.add_partitions()
            else:
                async with self.cluster.harmed(fault):
                    if fault.kind is not Kind.RESTART:
                        not_ready = await self._lasting(fault)
        except AssertionError as error:
            self.ledger.problem(Problem.PART, f"{fault.name}: {str(error)[-400:]}")
        ended = time.monotonic()
        for words in await self.cluster.revive():
            self.ledger.problem(Problem.PART, f"{fault.name}: {words}")
        flow, everyone = await self._probe(ended)
        silence = max(one.silence(began) for one in self.watchers if one.selection.all)
        limit = fault.limit * self._plan.slack
        lasted = ended - began
        outcome = Outcome(
            fault.number, fault.name, lasted, limit, calm or 0.0, flow, everyone, silence, not_ready
        )
        self.report.outcomes.append(outcome)
        self._say(progress(fault, outcome))
        if not outcome.in_time:
            self.ledger.problem(
                Problem.SLOW,
                f"{fault}: news after {flow} s, {calm} s before; at most {limit:g} more",
            )
        if everyone is None:
            away = [one.name for one in self.watchers if not one.connected]
            self.ledger.problem(
                Problem.SLOW,
                f"{fault}: not everybody had the news within {EVERYONE:g} s; away: {away}",
            )
        await self._all_ready(fault)

    async def _lasting(self, fault: Fault) -> dict[str, list[str]]:
        """Let a fault last; which processes say meanwhile that they are not ready."""
        end = time.monotonic() + fault.seconds
        await asyncio.sleep(max(LOOK, fault.seconds - LOOK))
        asked = await asyncio.gather(*(self._obstacles(name) for name in self.cluster.processes))
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        return {
            name: parts for name, parts in zip(self.cluster.processes, asked, strict=True) if parts
        }

    async def _ready(self) -> bool:
        asked = await asyncio.gather(*(self._obstacles(name) for name in self.cluster.processes))
        return not any(asked)

    async def _obstacles(self, name: str) -> list[str]:
        """The parts of a process that are not ready, as it says itself."""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self._session.get(f"{self.cluster.processes[name].url}/readyz") as response:
                answer = await response.json()
                return sorted(answer.get("notReady", {}))
        return ["no answer"]

    async def _all_ready(self, fault: Fault) -> None:
        """Every process says in the end that it is ready."""
        limit = READY * self._plan.slack
        end = time.monotonic() + limit
        while True:
            asked = await asyncio.gather(
                *(self._obstacles(name) for name in self.cluster.processes)
            )
            left = {
                name: parts
                for name, parts in zip(self.cluster.processes, asked, strict=True)
                if parts
            }
            if not left:
                return
            if time.monotonic() > end:
                self.ledger.problem(
                    Problem.PART, f"{fault}: still not ready after {limit:g} s: {left}"
                )
                return
            await asyncio.sleep(0.2)

    # ---- how fast news flows ----

    async def _probe(self, ended: float) -> tuple[float | None, float | None]:
        """Seconds from a moment until news in every partition is at those who stayed or come new, and at everybody."""
        stayed = [
            one
            for one in self.watchers
            if one.selection.all and one.connected and one.connected_at < ended
        ]
        since = {one.name: one.connections for one in stayed}
        targets = {line.prediction_id: line.acknowledged + 1 for line in self.load.probes}

        def has(one: Watcher) -> bool:
            return all(one.newest.get(name, 0) >= version for name, version in targets.items())

        async def arrives(one: Watcher) -> None:
            # Who is sent away meanwhile comes back in its own time, and counts with everybody.
            await eventually(lambda: has(one) or one.connections != since[one.name], 2 * EVERYONE)

        fresh = asyncio.create_task(self._fresh(targets))
        sending = [asyncio.create_task(self._send_probe(line)) for line in self.load.probes]
        waiting = [asyncio.create_task(arrives(one)) for one in stayed]
        done, late = await asyncio.wait([fresh, *sending, *waiting], timeout=EVERYONE)
        flow = None if late else time.monotonic() - ended
        for task in late:
            task.cancel()
        everyone = None
        with contextlib.suppress(AssertionError):
            left = max(1.0, EVERYONE - (time.monotonic() - ended))
            await eventually(
                lambda: all(has(one) for one in self.watchers if one.selection.all), left
            )
            everyone = time.monotonic() - ended
        for task in done:
            task.result()
        return flow, everyone

    async def _send_probe(self, line: Line) -> None:
        await self.load.step(line)

    async def _fresh(self, targets: dict[str, int]) -> None:
        """A client that comes new, again and again until it gets in, and has everything."""
        url = f"ws{self.cluster.url.removeprefix('http')}/api/ws"
        headers = {"Authorization": f"Bearer {self.cluster.token()}"}
        missing = dict(targets)
        while missing:
            with contextlib.suppress(OSError, TimeoutError, EOFError, WebSocketException):
                async with connect(
                    url,
                    subprotocols=[SUBPROTOCOL],
                    additional_headers=headers,
                    open_timeout=2,
                    close_timeout=1,
                ) as connection:
                    await connection.send(
                        msgspec.json.encode(
                            {"type": "subscribe", "ref": 1, "predictions": list(targets)}
                        ).decode()
                    )
                    while missing:
                        message = parse(await connection.recv())
                        if message.type in {"snapshot", "change"}:
                            record = msgspec.json.decode(message.prediction)
                            if record["version"] >= missing.get(record["predictionId"], 1 << 60):
                                del missing[record["predictionId"]]
            if missing:
                await asyncio.sleep(0.05)


def told(receiver: Receiver) -> dict[str, str]:
    """The settings of processes that tell a server of each prediction's end."""
    return {
        "TIDINGS_NOTIFY_SECRET": SECRET,
        "TIDINGS_NOTIFY": receiver.url,
        "TIDINGS_NOTIFY_ALLOW": receiver.allowed,
        "TIDINGS_NOTIFY_EVENTS": ",".join(ENDS),
    }


async def run(folder: Path, plan: Plan, say: Say) -> Report:
    """Start a cluster, harm it as planned, and report."""
    # The provider does not know what the load reports of, and says so once it is asked about what is silent.
    patient = {"TIDINGS_RECONCILE_AFTER": str(SILENCE * plan.slack)}
    async with (
        Receiver().serving() as receiver,
        linked(folder, patient | told(receiver)) as cluster,
    ):
        log = await open_log(f"kafka://{cluster.broker.bootstrap}", partitions=PARTITIONS)
        try:
            return await Suite(cluster, log, receiver, plan, say).run()
        finally:
            await log.close()


async def _until_signalled(work: Coroutine[Any, Any, Report]) -> Report:
    """A signal to end ends the processes too."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.cluster.faults", description=__doc__
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="under load; 30")
    parser.add_argument("--seed", type=int, help="of the schedule; a random one is printed")
    parser.add_argument("--rate", type=float, default=50.0, help="events a second; 50")
    parser.add_argument("--clients", type=int, default=24, help="that watch; 24")
    parser.add_argument(
        "--only", metavar="FAULT,...", help="these, in this order, once; part.kind each"
    )
    parser.add_argument(
        "--slack",
        type=float,
        default=1.0,
        help="what the limits are multiplied by on a busy machine; 1",
    )
    parser.add_argument("--show", action="store_true", help="print the schedule, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser.parse_args()


def main() -> int:
    """Run it; the exit code."""
    given = _arguments()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    only = tuple(given.only.split(",")) if given.only else None
    try:
        faults = schedule(seed, only)
        if given.show:
            for fault in faults if only else (next(faults) for _ in range(int(given.minutes * 4))):
                print(fault)  # noqa: T201
            return 0
    except UnknownFault as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    out = sys.stderr if given.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # outages are what this is about
    say(f"seed {seed}: the same schedule again with --seed {seed}")
    plan = Plan(
        faults, 0.0 if only else given.minutes * 60, seed, given.rate, given.clients, given.slack
    )
    with tempfile.TemporaryDirectory(
        prefix="tidings-faults-", ignore_cleanup_errors=True
    ) as folder:
        report = asyncio.run(_until_signalled(run(Path(folder), plan, say)))
    print(as_json(report) if given.json else table(report))  # noqa: T201
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
