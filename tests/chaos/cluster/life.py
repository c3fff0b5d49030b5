"""Groups with deadlines and retries, and questions, under the load: what must hold of them in the end.

Each group has members that end, and one that hangs, which its deadline fails and its policy tries again once. A question
is answered by two people at once.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from tests.chaos.cluster.ledger import MADE, Ledger, Problem
from tidings.client.client import Client
from tidings.client.errors import ClientError, Conflicting, Unreachable
from tidings.storage.prediction import Prediction
from tidings.streams.lifecycle.groups import told_by

EVERY = 8.0
"""Seconds between two groups."""
AGAIN = 0.5
PATIENCE = 120.0
TIMEOUT = 4_000
"""Ms until the deadline of what hangs: longer than most faults let a create wait."""
MODEL: dict[str, Any] = {
    "provider": "replicate",
    "model": "tidings-demo/pictures",
    "prompt": "a fox",
}
ENDS = {"payload": {"duration": 1, "steps": 2}}
HANGS = {"payload": {"duration": 600}, "timeout": TIMEOUT, "retries": {"max": 1, "backoff": 100}}
MEMBERS = (ENDS, HANGS, ENDS)
LETTERS = {"succeeded": "s", "failed": "f", "canceled": "c"}

Append = Callable[[str, Mapping[str, Any]], Awaitable[bool]]
"""Appends an event about a prediction; whether that was acknowledged."""


class Life:
    """Has groups made and questions asked, and holds them against their records.

    Args:
        ledger: Where problems go.
        append: A way to the events.
    """

    def __init__(self, ledger: Ledger, append: Append) -> None:
        self._ledger, self._append = ledger, append
        self.groups: set[str] = set()
        self.answers: dict[str, set[str]] = {}
        """By prediction, the answers of which somebody was told that they count."""

    async def run(self, client: Client, stopping: asyncio.Event) -> None:
        """Make one after another, until told to stop; the last question is brought to its end, too."""
        number = 0
        while not stopping.is_set():
            number += 1
            await self._group(client, f"{MADE}group-{number}")
            await self._question(client, f"{MADE}question-{number}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), EVERY)

    async def _group(self, client: Client, name: str) -> None:
        orders = [dict(one) for one in MEMBERS]
        await self._until(
            lambda: client.create_group(orders, group=name, idempotency_key=name, **MODEL)
        )
        self.groups.add(name)

    async def _question(self, client: Client, name: str) -> None:
        asked = {"status": "processing", "waiting": True, "question": "Go on?", "questionId": "q"}
        await self._say(name, asked)
        self.answers[name] = set()
        await asyncio.gather(*(self._answer(client, name, said) for said in ("yes", "no")))
        await self._say(name, {"status": "succeeded"})

    async def _say(self, name: str, event: Mapping[str, Any]) -> None:
        async def said() -> None:
            if not await self._append(name, event):
                raise Unreachable("the log has not taken it")

        await self._until(said)

    async def _answer(self, client: Client, name: str, said: str) -> None:
        async def answered() -> None:
            with contextlib.suppress(Conflicting):  # the other one was first
                record = await client.answer(name, said, question_number=1)
                if not record.waiting and record.value("answer") == said:
                    self.answers[name].add(said)

        await self._until(answered)

    async def _until(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Repeat a call that faults interrupt."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await call()
                except (ClientError, msgspec.DecodeError):
                    await asyncio.sleep(AGAIN)
                else:
                    return

    # ---- in the end ----

    def rested(self, found: Mapping[str, Prediction]) -> bool:
        """Whether every group has ended."""
        return all(name in found and found[name].status.terminal for name in self.groups)

    def check(self, found: Mapping[str, Prediction]) -> None:
        """Note what does not hold: counts, deadlines, retries, answers."""
        for name in self.groups:
            if name not in found:
                self._wrong(f"group {name} is not in the store", Problem.LOST)
            else:
                self._check_group(found[name], found)
        for name, told in self.answers.items():
            record = found.get(name)
            said = None if record is None else record.value("answer")
            if said is None or len(told) > 1 or (told and said not in told):
                self._wrong(f"{name} has the answer {said!r}; told were {sorted(told)}")
            elif record is not None and (record.question_number, record.waiting) != (1, False):
                self._wrong(f"{name} asked {record.question_number} times")
        for record in found.values():
            if record.error_code == "deadline" and record.transitions[-1].at != record.deadline:
                self._wrong(f"{record.prediction_id} did not fail at its deadline")

    def _check_group(self, group: Prediction, found: Mapping[str, Prediction]) -> None:
        letters, attempts = "", []
        for place in range(len(MEMBERS)):
            record = found.get(f"{group.prediction_id}.{place}")
            count = 0
            while record is not None and record.retried_as is not None:
                record, count = found.get(record.retried_as), count + 1
            attempts.append(count)
            if record is None:
                self._wrong(f"{group.prediction_id}.{place} is not in the store", Problem.LOST)
                return
            letters += LETTERS.get(record.status, "?")
            if count > ("retries" in MEMBERS[place]):
                self._wrong(f"{group.prediction_id}.{place} was tried again {count} times")
        if group.member_status != letters or [one[0] for one in told_by(group)] != attempts:
            self._wrong(
                f"{group.prediction_id} counts {group.member_status} {group.member_retries}; "
                f"its members are {letters} {attempts}"
            )

    def _wrong(self, text: str, kind: Problem = Problem.WRONG) -> None:
        self._ledger.problem(kind, text)
